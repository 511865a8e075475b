"""From texts to padded batches of token ids: truncation, words, parts of similar length.

Padding is on the right for every model, and masked. Nothing here knows a model or imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from transferscope.encoders._encoder import Prepared, Sample
from transferscope.encoders._pretrained import Tokenizer
from transferscope.errors import EncoderError

#: What a tokenizer makes of one text: token ids and masks by name.
Encoded: TypeAlias = dict[str, list[int]]
#: First and last character of each token.
Offsets: TypeAlias = Sequence[tuple[int, int]]


class WordOfSentence(Protocol):
    """One word of a sentence, see `transferscope.datasets.Word`."""

    @property
    def words(self) -> tuple[str, ...]:
        """All words of the sentence."""

    @property
    def position(self) -> int:
        """Which of them it is."""


class PassSize(NamedTuple):
    """How much a forward pass may hold, and costs by itself; both in tokens, with padding."""

    tokens: int
    overhead: int


#: The arrays of a layer should stay in the cache. A pass of next to no tokens took as long as
#: 25 to 38 tokens more in a large one, on BERTs of 4 to 12 layers.
ON_CPU = PassSize(1024, 32)
#: Other devices need many tokens to be busy (the overhead is an estimate); bounds the memory of all
#: hidden states.
ELSEWHERE = PassSize(8192, 2048)


class TextPart(NamedTuple):
    """Token sequences of similar length, padded on the right to (n_sequences, width)."""

    inputs: dict[str, npt.NDArray[np.int64]]
    rows: npt.NDArray[np.int64]  # which samples of the batch come from it
    spans: npt.NDArray[np.int64] | None  # for words: (n_rows, 3) sequence, first token, stop


class TextBatch(NamedTuple):
    """A batch as `TextPreprocessing` collates it."""

    parts: list[TextPart]
    truncated: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.truncated)


@dataclass(frozen=True)
class TextPreprocessing:
    """From texts, pairs of texts or words of sentences to padded batches of token ids.

    Parameters
    ----------
    tokenizer : tokenizer of transformers
    limit : int or None
        Number of tokens that are read; None: all.
    prompt : str
        Text that is put before every text.
    key : str
        The same for tokenizers that give the same tokens.
    size : PassSize
        Of the parts; one text alone may be longer.
    n_embeddings : int or None
        How many tokens have an embedding, where not all have.
    """

    tokenizer: Tokenizer
    limit: int | None
    prompt: str
    key: str
    size: PassSize = ON_CPU
    n_embeddings: int | None = None

    def prepare(self, sample: Sample) -> Prepared:
        """Check one sample; tokens are made batch by batch.

        Parameters
        ----------
        sample : str, tuple of str, or Word

        Returns
        -------
        str, tuple of str, or Word
            The sample itself.

        Raises
        ------
        EncoderError
            If it is no text.
        """
        texts = (sample,) if isinstance(sample, str) else sample
        if isinstance(texts, tuple) and all(isinstance(text, str) for text in texts):
            return sample
        if hasattr(sample, "words"):
            return sample
        raise EncoderError(
            f"sample must be a text for this encoder; got {type(sample).__name__}. "
            "Choose encoders for such data, such as mini/all for images."
        )

    def collate(self, prepared: Sequence[Prepared]) -> TextBatch:
        """Make tokens of prepared samples, sort them by length and pad them.

        Parameters
        ----------
        prepared : sequence of n texts, pairs of texts, or words

        Returns
        -------
        TextBatch

        Raises
        ------
        EncoderError
            If a text holds a token that has no embedding.
        """
        if hasattr(prepared[0], "words"):
            return self._of_words(prepared)
        pairs = isinstance(prepared[0], tuple)
        texts: list[tuple[str, ...]] = [
            (self.prompt + sample[0], *sample[1:]) if pairs else (self.prompt + sample,)
            for sample in prepared
        ]
        encoded = self._tokens(texts)
        n_tokens = np.array([len(one["input_ids"]) for one in encoded])
        truncated = np.zeros(len(prepared), np.int32)
        if self.limit is not None and n_tokens.max() > self.limit:
            long = np.flatnonzero(n_tokens > self.limit)
            truncated[long] = n_tokens[long] - self.limit
            cut = self._tokens([texts[i] for i in long], truncation=True, max_length=self.limit)
            for i, one in zip(long, cut, strict=True):
                encoded[i] = one
        parts = [
            TextPart(self._padded([encoded[i] for i in rows]), rows, None)
            for rows in self._groups([len(one["input_ids"]) for one in encoded])
        ]
        return TextBatch(parts, truncated)

    def _of_words(self, samples: Sequence[WordOfSentence]) -> TextBatch:
        rows_of: dict[tuple[str, ...], list[int]] = {}
        for row, sample in enumerate(samples):
            rows_of.setdefault(sample.words, []).append(row)
        truncated = np.zeros(len(samples), np.int32)
        sequences: list[Encoded] = []
        places: list[list[tuple[int, int, int]]] = []  # per sequence: row, first token, stop
        for words, rows in rows_of.items():
            pieces = list(self._pieces(words))
            n_tokens = [len(encoded["input_ids"]) for _, encoded, _ in pieces]
            for (first, encoded, spans), own in zip(pieces, n_tokens, strict=True):
                inside = [row for row in rows if 0 <= samples[row].position - first < len(spans)]
                if inside:
                    truncated[inside] = sum(n_tokens) - own
                    sequences.append(encoded)
                    places.append([(row, *spans[samples[row].position - first]) for row in inside])
        parts = []
        for chosen in self._groups([len(encoded["input_ids"]) for encoded in sequences]):
            found = [(number, *place) for number, i in enumerate(chosen) for place in places[i]]
            table = np.array(found, dtype=np.int64)
            inputs = self._padded([sequences[i] for i in chosen])
            parts.append(TextPart(inputs, table[:, 1], table[:, [0, 2, 3]]))
        return TextBatch(parts, truncated)

    def _pieces(
        self, words: Sequence[str], first: int = 0
    ) -> Iterator[tuple[int, Encoded, list[tuple[int, int]]]]:
        """Cut a sentence into pieces that can be read: first word, tokens, span of each word."""
        if not getattr(self.tokenizer, "is_fast", False):
            raise EncoderError(
                f"tokenizer {type(self.tokenizer).__name__} does not give the places of its "
                "tokens, which tags per word need. Save the fast form of it (tokenizer.json), or "
                "choose another encoder."
            )
        text = " ".join(words)
        encoded, offsets = self._with_offsets(text)
        n_tokens = len(encoded["input_ids"])
        if self.limit is not None and n_tokens > self.limit:
            if len(words) > 1:
                middle = len(words) // 2
                yield from self._pieces(words[:middle], first)
                yield from self._pieces(words[middle:], first + middle)
                return
            encoded, offsets = self._with_offsets(text, truncation=True, max_length=self.limit)
        yield first, encoded, _word_spans(words, offsets)

    def _with_offsets(self, text: str, **options: object) -> tuple[Encoded, Offsets]:
        (encoded,) = self._tokens([(text,)], return_offsets_mapping=True, **options)
        offsets: Offsets = encoded.pop("offset_mapping")  # type: ignore[assignment]  # pairs
        return encoded, offsets

    def _tokens(self, texts: Sequence[tuple[str, ...]], **options: object) -> list[Encoded]:
        columns = [list(column) for column in zip(*texts, strict=True)]
        encoded = self.tokenizer(
            *columns, padding=False, verbose=False, **{"truncation": False, **options}
        )
        each = [{name: encoded[name][i] for name in encoded} for i in range(len(texts))]
        for one in each:
            self._require_embedding(one["input_ids"])
            if not one["input_ids"]:
                one |= {"input_ids": [self._filler], "attention_mask": [1]}
                one |= {"token_type_ids": [0]} if "token_type_ids" in one else {}
                one |= {"offset_mapping": [(0, 0)]} if "offset_mapping" in one else {}
        return each

    def _groups(self, lengths: Sequence[int]) -> list[npt.NDArray[np.int64]]:
        """Group texts of similar length, so that padding and passes together cost least."""
        order = np.argsort(lengths, kind="stable")
        # cheapest way to group the first texts, from that of fewer: what it costs, and where its
        # last group starts
        cost, begins = np.zeros(len(order) + 1), np.zeros(len(order) + 1, np.int64)
        for stop, longest in enumerate(np.asarray(lengths)[order].tolist(), start=1):
            starts = np.arange(max(0, stop - max(1, self.size.tokens // longest)), stop)
            costs = cost[starts] + (stop - starts) * longest + self.size.overhead
            begins[stop], cost[stop] = starts[costs.argmin()], costs.min()
        groups, stop = [], len(order)
        while stop:
            groups.append(order[begins[stop] : stop])
            stop = int(begins[stop])
        return groups[::-1]

    def _require_embedding(self, tokens: Sequence[int]) -> None:
        beyond = [token for token in tokens if not self._is_embedded(token)]
        if beyond:
            raise EncoderError(
                f"a text has the token {self.tokenizer.convert_ids_to_tokens(beyond[0])!r}, number "
                f"{beyond[0]} of {len(self.tokenizer)}, and the model has an embedding of "
                f"{self.n_embeddings} tokens. Save the tokenizer that the model was trained with, "
                "or the model after resize_token_embeddings."
            )

    def _is_embedded(self, token: int | None) -> bool:
        return token is not None and (self.n_embeddings is None or token < self.n_embeddings)

    @property
    def _filler(self) -> int:
        """The token that stands for a text without tokens."""
        ids = (self.tokenizer.eos_token_id, self.tokenizer.bos_token_id, self._padding)
        return next(int(token) for token in ids if self._is_embedded(token))

    @property
    def _padding(self) -> int:
        # masked, so that any id will do where there is none; some models count positions by it
        padding = self.tokenizer.pad_token_id
        return int(padding) if self._is_embedded(padding) else 0

    def _padded(self, encoded: Sequence[Encoded]) -> dict[str, npt.NDArray[np.int64]]:
        width = max(len(one["input_ids"]) for one in encoded)
        padding = {"input_ids": self._padding}
        return {
            name: np.array(
                [
                    [*one[name], *[padding.get(name, 0)] * (width - len(one[name]))]
                    for one in encoded
                ],
                dtype=np.int64,
            )
            for name in encoded[0]
        }


def _word_spans(words: Sequence[str], offsets: Offsets) -> list[tuple[int, int]]:
    """First token and stop of each word of a text that was joined with spaces.

    A word without tokens (a control character) takes the token before it.
    """
    # word of every character; a space belongs to the word behind it
    word_of = np.repeat(
        np.arange(len(words)), [len(word) + (i > 0) for i, word in enumerate(words)]
    )
    owners = np.array(
        [word_of[stop - 1] if stop > start else -1 for start, stop in offsets], dtype=np.int64
    )
    spans: list[tuple[int, int]] = []
    for word in range(len(words)):
        found = np.flatnonzero(owners == word)
        if len(found):
            spans.append((int(found[0]), int(found[-1]) + 1))
        else:
            before = max(spans[-1][1] - 1 if spans else 0, 0)
            spans.append((before, before + 1))
    return spans
