"""The content-addressed cache: fetched artifacts, the OCI layout, unpacked roots, records; and fetching into it."""

from envbuild.store.fetch import Source, Wanted, fetch
from envbuild.store.gc import Freed, Keep, collect
from envbuild.store.http import Http
from envbuild.store.store import Store

__all__ = ["Freed", "Http", "Keep", "Source", "Store", "Wanted", "collect", "fetch"]
