"""How far passages support an answer, and where.

text        sentences, normal forms of words, figures, names
windows     the parts of passages that may support a sentence
lexical     which part says a sentence, by words and figures; quotations
case        an answer beside its passages, taken apart
reading     what words, vectors and likelihoods say of a sentence, as numbers
asking      what the peers are asked for, bounded, and what they fail to deliver
combining   from numbers to groundedness, by committed weights
judging     the whole answer
"""

from services.router.grounding.judging import CALLS, SentenceGrounding

__all__ = ["CALLS", "SentenceGrounding"]
