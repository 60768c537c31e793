"""A resolver that knows nothing and says so: every question over UDP gets an answer without records.

Argument: port.
"""

import socket
import sys

ANSWER = 0x80


def main():
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("", int(sys.argv[1])))
    while True:
        question, asker = server.recvfrom(512)
        if len(question) >= 12:
            server.sendto(question[:2] + bytes([question[2] | ANSWER]) + question[3:], asker)


main()
