"""Text generation: prompts in, tokens out, with adapters per tenant."""
