"""The thinking of the router: admission, deadlines, paths, and the life of an answer."""

from services.router.engine.adapters import AdapterDirectory
from services.router.engine.admission import Admission
from services.router.engine.answering import Ports, RouterEngine
from services.router.engine.rewrite import rewrite
from services.router.engine.tools import RunSettings

__all__ = ["AdapterDirectory", "Admission", "Ports", "RouterEngine", "RunSettings", "rewrite"]
