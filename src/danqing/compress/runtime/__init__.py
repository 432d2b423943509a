"""Models that were exported, run without PyTorch: `load(folder).sample(4)`.

Nothing here imports PyTorch, nor anything that does.
"""

from danqing.compress.runtime.model import RuntimeModel as RuntimeModel
from danqing.compress.runtime.model import load as load
from danqing.compress.runtime.recognizer import RuntimeRecognizer as RuntimeRecognizer
from danqing.compress.runtime.recognizer import load_recognizer as load_recognizer
