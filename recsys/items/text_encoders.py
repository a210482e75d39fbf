"""Text encoders in a bundle: written by training, read wherever items come or change."""

import shutil

from recsys.bundle import Bundle
from recsys.content.sentences import NETWORK, TOKENIZER, SentenceVectors
from recsys.content.text_encoder import TextEncoder
from recsys.content.words import WordVectors

WORDS, SENTENCES = "words", "sentences"
"""names of the document and the arrays of an encoder, `.json` and `.safetensors`"""


def write_text_encoder(bundle: Bundle, encoder: TextEncoder) -> None:
    """Write an encoder and the files that it reads into a draft bundle."""
    document, arrays = encoder.to_documents()
    name = WORDS if isinstance(encoder, WordVectors) else SENTENCES
    bundle.write_document(f"{name}.json", document)
    bundle.write_arrays(f"{name}.safetensors", arrays)
    for file, path in encoder.files.items():
        shutil.copyfile(path, bundle.path / file)


def has_text_encoder(bundle: Bundle) -> bool:
    """Return whether texts of the items became vectors."""
    return any(bundle.has(f"{name}.json") for name in (WORDS, SENTENCES))


def read_text_encoder(bundle: Bundle) -> TextEncoder | None:
    """Return the encoder of a bundle, None where its items have no texts; ConfigError where a package for it is lacking."""
    if bundle.has(f"{WORDS}.json"):
        return WordVectors.from_documents(bundle.document(f"{WORDS}.json"), bundle.arrays(f"{WORDS}.safetensors"))
    if not bundle.has(f"{SENTENCES}.json"):
        return None
    stored = bundle.document(f"{SENTENCES}.json"), bundle.arrays(f"{SENTENCES}.safetensors")
    return SentenceVectors.from_documents(*stored, bundle.file(NETWORK), bundle.file(TOKENIZER))
