"""Rewards over gRPC: `server` answers for any reward, `client` is a reward that asks a server."""
