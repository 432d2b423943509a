"""The steps that migrate the database of an older Danqing to this version."""
