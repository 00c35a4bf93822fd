"""The provider's side of `deploy`: an agent that runs keeps for tenants who do not trust it."""
