{
 "algorithm": "Ed25519",
 "key_id": "fa7b030777cd8e9a",
 "signature": "knYzWmxmtgSqkbzra6u1lhX34UW/nWsYqI7AQBuSLnwz8TTrRc4QhjmGWuVIQTlWZ01RG/7NjPtnwtJXEvdcCg=="
}
