"""`make test-install`: the wheel, as users install it. Not here: the build and its version (`tests.release`)."""
