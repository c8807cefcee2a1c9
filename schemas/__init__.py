"""The data model: job file, Arrow schemas, plan, manifest, shards index and ledger, and where files live."""
