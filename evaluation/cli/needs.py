"""Says before the work begins what its end would lack."""

from tandem.errors import ConfigError


def needs_report() -> None:
    """Raises ConfigError where the libraries of the report are not installed."""
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(f'the report needs {error.name}: pip install "tandem[evaluation]"') from None
