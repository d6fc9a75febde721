"""Search with a model that layerscope saved: stock sentence-transformers, no layerscope.

layerscope cut sentence-transformers/all-MiniLM-L6-v2 --layer 5 --out out/
python examples/load_in_sentence_transformers.py out/ notes.txt "how do I cancel?"
"""

import argparse
from pathlib import Path

from sentence_transformers import SentenceTransformer, util


def search(
    folder: Path, texts: list[str], question: str, count: int = 3
) -> list[tuple[float, str]]:
    """Return the texts nearest to a question, the best first, with their cosines."""
    model = SentenceTransformer(str(folder))
    found = util.semantic_search(model.encode([question]), model.encode(texts), top_k=count)[0]
    return [(float(each["score"]), texts[each["corpus_id"]]) for each in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder that layerscope cut or prune saved")
    parser.add_argument("texts", type=Path, help="a file with one text a line")
    parser.add_argument("question")
    asked = parser.parse_args()
    texts = asked.texts.read_text(encoding="utf-8").splitlines()
    for score, text in search(asked.model, texts, asked.question):
        print(f"{score:.3f}  {text}")


if __name__ == "__main__":
    main()
