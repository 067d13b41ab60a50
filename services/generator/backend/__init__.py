"""The torch room of the generator: weights, adapters and the model runner."""
