"""How far passages support an answer, and where.

text        sentences, normal forms of words, figures, names
lexical     citations by words and figures alone
windows     the parts of passages that may support a sentence
reading     what words, vectors and likelihoods say of a sentence, as numbers
combining   from numbers to groundedness, by committed weights
judging     the whole answer, asking the peers that are configured
"""

from services.router.grounding.judging import SentenceGrounding
from services.router.grounding.lexical import MAX_EXTRACT, SHORT, SUPPORT, LexicalGrounding

__all__ = ["MAX_EXTRACT", "SHORT", "SUPPORT", "LexicalGrounding", "SentenceGrounding"]
