"""A corpus in memory, for tests."""

from seqgen.data import cache


class MemorySource:
    """Pairs as a `Source` that counts how often it is read."""

    def __init__(self, pairs, extra=""):
        self.pairs = list(pairs)
        self.fingerprint = cache.digest_json([self.pairs, extra])
        self.reads = 0

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        self.reads += 1
        source, target = self.pairs[index]
        return {"source": source, "target": target}
