"""Surrogates: networks that stand in for a simulator or a pricing routine, learned from values and derivatives."""
