{
 "algorithm": "Ed25519",
 "key_id": "fa7b030777cd8e9a",
 "signature": "TPGmOchSWD6vJoCBBTwQgCTQ7m8I2adF3QQg42CF8O6Wttl8AFhbo4zGpEt78ttM3IAQ9qTAHkjXCUG/+UgkAg=="
}
