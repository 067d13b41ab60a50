{
 "algorithm": "Ed25519",
 "key_id": "fa7b030777cd8e9a",
 "signature": "//a8+R5eozbTXYXC6Ucw3Iss/a1wBNxHInGlX4ZgyIqYeqZoSjkIiDgJwLX407Go5WaYw7HkDvsfWLJ0AzJlDQ=="
}
