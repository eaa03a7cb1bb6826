"""The content-addressed object store: bytes under their own SHA-256, over fsspec.

Guarantees: what a `put` has returned is durable (fsynced, or acknowledged by the server); nothing
that does not have the digest asked for is ever returned; a crash leaves nothing half written under
a digest. Objects are immutable, so that any number of processes may write the same one. Memory is
bounded whatever the size. Never knows what the bytes mean, and deletes only what it is told to.
"""

from wtb_ray.objects.blobs import Stored, key_of
from wtb_ray.objects.guard import GUARD, Guard, generation
from wtb_ray.objects.store import SHARDS, ObjectStore

__all__ = ["GUARD", "SHARDS", "Guard", "ObjectStore", "Stored", "generation", "key_of"]
