"""GeneratorService: requests are checked and converted, a backend is called, results are converted back."""

from services.generator.servicer.servicer import GeneratorServicer, Parts

__all__ = ["GeneratorServicer", "Parts"]
