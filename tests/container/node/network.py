"""The node's network: a namespace for each pod, as a network plug-in makes it, and a client outside.

    client ─────────── the node ─────────── pod
    10.8.0.2/24        10.8.0.1/24          10.9.0.N/32
                       pod-N                gateway 169.254.1.1
"""

import subprocess
import sys
import time

CLIENT = "10.8.0.2"
# The cluster's name server, which is the node itself.
DNS = "10.96.0.10"
WEB_PORT = 8000


def ip(command):
    subprocess.run(["ip", *command.split()], check=True)


def sysctl(name, value):
    with open(f"/proc/sys/{name}", "w", encoding="ascii") as file:
        file.write(value)


def make():
    """The client."""
    sysctl("net/ipv4/ip_forward", "1")
    for command in (
        "link set lo up",
        f"address add {DNS}/32 dev lo",
        "netns add client",
        "link add client0 type veth peer name eth0 netns client",
        "address add 10.8.0.1/24 dev client0",
        "link set client0 up",
        f"-n client address add {CLIENT}/24 dev eth0",
        "-n client link set lo up",
        "-n client link set eth0 up",
        "-n client route add default via 10.8.0.1",
        # Proxy ARP answers only for what is routed elsewhere.
        f"route add default via {CLIENT} dev client0",
    ):
        ip(command)


def add_pod(name, number):
    """A pod's namespace, as Calico makes it; the answer is its address."""
    address = f"10.9.0.{number}"
    for command in (
        f"netns add {name}",
        f"link add pod-{number} type veth peer name eth0 netns {name}",
        f"link set pod-{number} up",
        f"route add {address} dev pod-{number}",
        f"-n {name} link set lo up",
        f"-n {name} link set eth0 up",
        f"-n {name} address add {address}/32 dev eth0",
        f"-n {name} route add 169.254.1.1 dev eth0 scope link",
        f"-n {name} route add default via 169.254.1.1 dev eth0",
    ):
        ip(command)
    sysctl(f"net/ipv4/conf/pod-{number}/proxy_arp", "1")
    # Else an answer by proxy waits for up to 0.8 s.
    sysctl(f"net/ipv4/neigh/pod-{number}/proxy_delay", "0")
    return address


def outside(*command, timeout, check=True):
    """Runs a command at the client."""
    return subprocess.run(["ip", "netns", "exec", "client", *command], capture_output=True, text=True, timeout=timeout, check=check)


def serve(directory):
    """A web server at the client; the answer is its process."""
    server = subprocess.Popen(
        ["ip", "netns", "exec", "client", sys.executable, "-m", "http.server", str(WEB_PORT), "--bind", CLIENT, "--directory", directory],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    probe = ["ip", "netns", "exec", "client", "bash", "-c", f"</dev/tcp/{CLIENT}/{WEB_PORT}"]
    while subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode:
        if time.monotonic() > deadline or server.poll() is not None:
            raise RuntimeError("the web server does not run")
        time.sleep(0.5)
    return server
