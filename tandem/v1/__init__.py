"""Generated from proto/tandem/v1 by `make proto`. Do not edit."""
