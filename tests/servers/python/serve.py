"""Runs one server on a port that the kernel chose, and prints the port.

Two things that no command line of these servers offers. None can tell which port it got, so tests would have to find a
free one and hope; here the socket is bound before anything else happens, and whoever connects early waits in its queue.
And none ends with whoever started it; here the end of standard input, which comes however a test ends, is the end.
"""

import asyncio
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time


def main():
    name, *arguments = sys.argv[1:]
    {"ministack": ministack, "microburst": microburst, "roto": roto}[name](*arguments)


def ministack():
    at_end_of_stdin(lambda: os._exit(0))
    listener = listen()
    # Read at import, and told to clients in the addresses of queues and in the issuer of tokens.
    os.environ["GATEWAY_PORT"] = str(port(listener))
    announce(port(listener))
    import buses
    import hypercorn.asyncio
    import ministack.app
    import parameters
    import policies

    buses.complete()
    parameters.complete()
    policies.complete()
    config = hypercorn.Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.loglevel = "WARNING"
    asyncio.run(hypercorn.asyncio.serve(ministack.app.app, config))


def microburst(upstream):
    at_end_of_stdin(lambda: os._exit(0))
    listener = listen()
    announce(port(listener))
    import aiohttp.web
    import microburst.app
    import microburst.core.pipeline
    import microburst.detection.host

    # It would first read for seconds what could tell a service by the name of its host. Hosts have no names here.
    microburst.detection.host._endpoint_prefix_map = dict
    app = microburst.app.make_app(microburst.core.pipeline.Microburst(upstream))
    aiohttp.web.run_app(app, sock=listener, print=None)


def roto(*arguments):
    """The one that is no Python: it binds port 0 but takes no open socket and does not say what it got."""
    import psutil

    program = pathlib.Path(sys.executable).with_name("roto-server")
    server = subprocess.Popen([program, "--port", "0", *arguments], stdin=subprocess.DEVNULL, stdout=sys.stderr)
    at_end_of_stdin(server.kill)
    while server.poll() is None:
        sockets = psutil.Process(server.pid).net_connections("tcp")
        ports = [socket.laddr.port for socket in sockets if socket.status == psutil.CONN_LISTEN]
        if ports:
            announce(ports[0])
            break
        time.sleep(0.01)
    sys.exit(server.wait())


def at_end_of_stdin(action):
    def wait():
        while os.read(0, 4096):
            pass
        action()

    threading.Thread(target=wait, daemon=True).start()


def listen():
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.set_inheritable(True)
    return listener


def port(listener):
    return listener.getsockname()[1]


def announce(number):
    print(number, flush=True)
    # Nobody reads standard output from here on.
    os.dup2(2, 1)


main()
