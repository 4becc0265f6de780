"""Bundles: what a far machine lacks of an image, in pieces, and the image made again there and proven."""

from __future__ import annotations

from envbuild.bundle.delivery import Delivered, Order, deliver
from envbuild.bundle.far import Far, read_far, write_inventory
from envbuild.bundle.model import RECIPES, Index
from envbuild.bundle.pack import Packed, Request, pack
from envbuild.bundle.taking import one_index

__all__ = [
    "RECIPES",
    "Delivered",
    "Far",
    "Index",
    "Order",
    "Packed",
    "Request",
    "deliver",
    "one_index",
    "pack",
    "read_far",
    "write_inventory",
]
