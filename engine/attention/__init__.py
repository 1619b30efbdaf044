"""Attention over a virtual block table: one interface (`base`), one backend per kind of device."""
