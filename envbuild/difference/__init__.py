"""What two forms of a recipe, two environments or two images differ in (docs/reference/diff.md)."""

from envbuild.difference.compare import Difference, Pull, Row, compare, pull_between
from envbuild.difference.contents import FileDifference, compare_folders, unexpected
from envbuild.difference.dockerfile import of_dockerfile
from envbuild.difference.installed import of_folder, of_image
from envbuild.difference.inventory import ECOSYSTEMS, Ecosystem, Fact, Form, Inventory, Package
from envbuild.difference.locks import of_conda_lock, of_lock, with_files
from envbuild.difference.pins import Cell, Pin, compare_pins

__all__ = [
    "ECOSYSTEMS",
    "Cell",
    "Difference",
    "Ecosystem",
    "Fact",
    "FileDifference",
    "Form",
    "Inventory",
    "Package",
    "Pin",
    "Pull",
    "Row",
    "compare",
    "compare_folders",
    "compare_pins",
    "of_conda_lock",
    "of_dockerfile",
    "of_folder",
    "of_image",
    "of_lock",
    "pull_between",
    "unexpected",
    "with_files",
]
