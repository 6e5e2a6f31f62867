# SPDX-License-Identifier: Apache-2.0
"""ramet: small models are born of a large one, adapt where they live, and feed back what they learned.

    import ramet
    parent = ramet.load("parent.gguf")
    print(parent.generate("Rivers", max_tokens=20))
    variant = parent.quantize("Q4_0")
    for event in (tuner := ramet.Tuner(variant, "my.txt", steps=40)):
        print(event.step, event.loss)
"""
from ._batch import BatchEvent, Batcher
from ._classify import Classifier
from ._feedback import Brief, Candidate, Store
from ._graph import Graph, Layers, Program, Value, Variables, text_rows
from ._library import Error
from ._model import Adapter, Embedder, Model, Runtime, Session, Tokenizer, describe, load, names, runtime
from ._train import Dataset, Evaluation, Event, Tuner

__all__ = ["Adapter", "BatchEvent", "Batcher", "Brief", "Candidate", "Classifier", "Dataset", "Embedder", "Error", "Evaluation", "Event", "Graph", "Layers", "Model", "Program", "Runtime", "Session", "Store", "Tokenizer", "Tuner", "Value", "Variables", "describe", "load", "names", "runtime", "text_rows"]
__version__ = __import__("ramet._library", fromlist=["lib"]).lib.ramet_version_string().decode()
