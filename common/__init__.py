"""The ground that every other room stands on. Names no session, no track and no TorchRec."""
