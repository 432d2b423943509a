"""Image files: the formats that can be read, and how they become pixels."""

from danqing.image_files.levels import Deep as Deep
from danqing.image_files.levels import DeepPixels as DeepPixels
from danqing.image_files.levels import Range as Range
from danqing.image_files.levels import value_range as value_range
from danqing.image_files.reading import MAX_BYTES as MAX_BYTES
from danqing.image_files.reading import MAX_PIXELS as MAX_PIXELS
from danqing.image_files.reading import Frame as Frame
from danqing.image_files.reading import Header as Header
from danqing.image_files.reading import convert as convert
from danqing.image_files.reading import decode as decode
from danqing.image_files.reading import deep_values as deep_values
from danqing.image_files.reading import frames as frames
from danqing.image_files.reading import inspect as inspect
from danqing.image_files.reading import opened as opened
from danqing.image_files.reading import read as read
