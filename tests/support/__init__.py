"""What tests of several rooms share: servers, processes, proxies, factories, waiting. Holds no test."""
