"""`plugin_client.py SOCKET COMMAND WORDS ..`: have a command run by `plugin_server.py`."""

import json
import os
import socket
import sys

if __name__ == "__main__":
    path, *words = sys.argv[1:]
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        asked = json.dumps([words, os.getcwd(), dict(os.environ)]).encode() + b"\n"
        sent = socket.send_fds(server, [asked], [0, 1, 2])
        server.sendall(asked[sent:])
        code = int(server.makefile().readline())
    sys.exit(code if code >= 0 else 128 - code)
