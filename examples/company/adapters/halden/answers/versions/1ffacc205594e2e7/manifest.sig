{
 "algorithm": "Ed25519",
 "key_id": "099cc5ae19b9b51c",
 "signature": "Lxtx86ciVTXAWsm7k+7ovcnYv6PBbSdKEu39LHFFCRfVuh9mFG4ou3YtZaKJ5UONPAU+8v++WjtZXp5+5sX6Bw=="
}
