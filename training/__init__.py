"""Fine-tuning: adapters that answer from their weights or read passages well."""
