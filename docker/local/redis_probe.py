"""Exits 0 while a Redis answers PING to its password. Stands in for redis-cli, which no package brings."""

import socket
import sys
from pathlib import Path


def answers_ping(host: str, port: int, password: str) -> bool:
    """The server accepts the password and answers within 2 s."""
    secret = password.encode()
    login = b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%s\r\n" % (len(secret), secret)
    with socket.create_connection((host, port), timeout=2) as connection:
        connection.sendall(login + b"PING\r\nQUIT\r\n")
        return b"+PONG" in connection.makefile("rb").read()


if __name__ == "__main__":
    _, name, number, password_file = sys.argv
    sys.exit(not answers_ping(name, int(number), Path(password_file).read_text().strip()))
