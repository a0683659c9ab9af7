"""A small TCP proxy that breaks connections on demand: reset, half-close, silence, and the lost answer of a commit."""

import socket
import struct
import threading

CHUNK = 65_536
CONNECT_SECONDS_MAX = 5
# How a commit can be told from other traffic: the statement's text is seen when it is prepared, and each later message
# of such a connection is one of its commits.
LANE = b"WITH fence AS"


class Pair:
    """One connection through the proxy."""

    def __init__(self, proxy, client, server):
        self.proxy, self.client, self.server = proxy, client, server
        self.is_lane = False
        self.loses_answer = False
        self.silent = False

    def start(self):
        for source, sink, upwards in ((self.client, self.server, True), (self.server, self.client, False)):
            threading.Thread(target=self.pump, args=(source, sink, upwards), daemon=True).start()

    def pump(self, source, sink, upwards):
        try:
            while True:
                data = source.recv(CHUNK)
                if not data:
                    break
                if self.silent:
                    continue
                if upwards:
                    prepared = LANE in data
                    if self.proxy.armed and (self.is_lane or prepared):
                        # The server gets it, the client never hears what became of it.
                        self.proxy.armed -= 1
                        self.loses_answer = True
                    self.is_lane = self.is_lane or prepared
                elif self.loses_answer:
                    self.proxy.lost += 1
                    self.reset()
                    return
                sink.sendall(data)
        except OSError:
            pass
        self.close()

    def reset(self):
        for end in (self.client, self.server):
            try:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            except OSError:
                pass
        self.close()

    def half_close(self):
        """The client may still write, and nobody answers."""
        try:
            self.client.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self):
        for end in (self.client, self.server):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()
        self.proxy.forget(self)


class Proxy:
    """Listens on a port of its own and passes on to `target`, which may change."""

    def __init__(self, target):
        self.target = target
        self.lock = threading.Lock()
        self.pairs = set()
        # How many answers to commits are still to be lost, and how many were.
        self.armed = 0
        self.lost = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target), timeout=CONNECT_SECONDS_MAX)
                server.settimeout(None)
            except OSError:
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = Pair(self, client, server)
            with self.lock:
                self.pairs.add(pair)
            pair.start()

    def each(self, do):
        with self.lock:
            pairs = list(self.pairs)
        for pair in pairs:
            do(pair)
        return len(pairs)

    def reset_all(self):
        return self.each(Pair.reset)

    def half_close_all(self):
        return self.each(Pair.half_close)

    def silence_all(self):
        """Connections stay open, and nothing comes through any more."""
        return self.each(lambda pair: setattr(pair, "silent", True))

    def lose_answers(self, count):
        self.armed = count

    def forget(self, pair):
        with self.lock:
            self.pairs.discard(pair)

    def close(self):
        self.listener.close()
        self.reset_all()
