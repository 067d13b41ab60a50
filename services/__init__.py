"""The four services. They share `tandem` and meet over gRPC; none imports another."""
