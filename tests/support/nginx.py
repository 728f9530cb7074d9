"""A real nginx before a proxy, as Debian packages it; without it a test is skipped."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.ports import free_port, listens
from tests.support.servers import program
from tests.support.waiting import eventually

CONFIGURATION = """
daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream proxies {{
        server 127.0.0.1:{proxy};
        keepalive 1;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://proxies;
            {directives}
        }}
    }}
}}
"""


@contextmanager
def nginx(folder: Path, proxy: int, *directives: str) -> Iterator[str]:
    """A balancer before the proxy on this port; its address. What the directives leave out is nginx's own default."""
    port = free_port()
    file = folder / "nginx.conf"
    lines = " ".join(f"{directive};" for directive in directives)
    file.write_text(CONFIGURATION.format(folder=folder, port=port, proxy=proxy, directives=lines))
    process = subprocess.Popen([program("nginx", "nginx-light"), "-c", file, "-e", folder / "error.log"], cwd=folder)
    try:
        eventually(lambda: listens(port) or process.poll() is not None, patience_s=10)
        assert process.poll() is None, (folder / "error.log").read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
