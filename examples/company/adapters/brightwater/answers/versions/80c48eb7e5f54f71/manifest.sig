{
 "algorithm": "Ed25519",
 "key_id": "099cc5ae19b9b51c",
 "signature": "Ap6oXJ08zY7hiW3Xh/fMpaHPblU0aFErc44JXsIX2hPZTfIy7BkmbZRR18vrWwDaMLWywWqtGjt/EoJNpXdICQ=="
}
