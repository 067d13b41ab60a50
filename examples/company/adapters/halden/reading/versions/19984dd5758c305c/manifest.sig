{
 "algorithm": "Ed25519",
 "key_id": "099cc5ae19b9b51c",
 "signature": "vBNTf3YuGjY09aDWZDThEIuJzpaP8t873P2A3N/VKF50bMGurplICwKtqOwZoYoYaxdFzXbMIJwpYfb+2GH5DA=="
}
