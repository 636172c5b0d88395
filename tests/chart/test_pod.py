"""What `helm test` runs, run here: against a VM that is ready, one that is not, and one that is not there."""

import http.server
import subprocess
import threading

from helm import at, render
from values import values_of


class Vm(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        assert self.path == "/readyz" and self.headers["Host"], self.path
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(b"as it is\n")

    def log_message(self, *_):
        pass


def vm(status):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Vm)
    server.status = status
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"127.0.0.1:{server.server_port}"


def check_it_tells_ready_from_not_ready():
    container = at(render(values_of("")), "Pod/berth-test spec containers test")
    assert container["args"] == ["test", "berth-vm:5900"]
    ready, at_ready = vm(200)
    unready, at_unready = vm(503)
    gone, at_gone = vm(200)
    gone.shutdown()
    gone.server_close()
    for addresses, status, words in [
        ([at_ready], 0, ["HTTP/1.0 200 OK"]),
        ([at_ready, at_ready], 0, ["HTTP/1.0 200 OK"]),
        ([at_unready, at_ready], 1, ["HTTP/1.0 503", "HTTP/1.0 200 OK"]),
        ([at_ready, at_gone], 1, [f"{at_gone}: does not answer"]),
    ]:
        done = subprocess.run([*container["command"], "test", *addresses], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == status, (addresses, done)
        assert all(word in done.stdout for word in words), (words, done)
    for server in (ready, unready):
        server.shutdown()
        server.server_close()


def check_there_is_none_without_vms_to_ask():
    assert at(render(values_of("{vnc: {enabled: false}}")), "Pod/berth-test") == "(absent)"
