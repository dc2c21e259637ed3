"""Tests: unit, contract (one suite for every engine), e2e (browser), security, gpu."""
