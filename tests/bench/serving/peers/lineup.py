"""The peers that take part in a benchmark, each checked before it is timed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.bench.serving.peers import running
from tests.bench.serving.peers.peer import Peer, Row
from tests.support.environments import PeerProblem


class Lineup:
    """Peers over one bundle and its plain graph, asked for the same rows as the product.

    A peer that cannot be installed, does not start, or scores otherwise than the product is
    told in one line and left out from then on; ``complete`` is then false.
    """

    def __init__(
        self, peers: Sequence[Peer], bundle: Path, graph: Path, rows: Sequence[Row], scratch: Path
    ) -> None:
        self.complete = True
        self._peers = list(peers)
        self._files = bundle, graph
        self._rows = rows
        self._scratch = scratch
        for peer in self._peers:
            with self.bodies(peer).open("w") as file:
                file.writelines(json.dumps(peer.body(row)) + "\n" for row in rows)

    @property
    def names(self) -> list[str]:
        """The peers that are left."""
        return [peer.name for peer in self._peers]

    def bodies(self, peer: Peer) -> Path:
        """The file of a peer's requests, one a line."""
        return self._scratch / f"predict-{peer.name}"

    def check(self, expected: Sequence[float]) -> None:
        """Compare the scores of the first rows with the product's."""
        rows = self._rows[: len(expected)]
        self.each(lambda peer, server: running.check(peer, server.port, rows, expected))

    def each(self, act: Callable[[Peer, running.Server], None]) -> None:
        """Start one peer after the other and do something with it."""
        for peer in list(self._peers):
            try:
                with running.serving(peer, *self._files, self._rows[0]) as server:
                    act(peer, server)
            except PeerProblem as problem:
                print(f"bench: left out: {peer.name} {problem}", file=sys.stderr)
                self._peers.remove(peer)
                self.complete = False
