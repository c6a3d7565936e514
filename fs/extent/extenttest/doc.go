// Package extenttest is the conformance suite that every extent.Store passes,
// and a wrapper that injects faults for the tests of what is above.
//
// The suite checks the contract of the interface's comments: that bytes come back
// whole and in parts, that addresses are aligned, disjoint and never given out
// twice, that freeing is idempotent and touches nothing else, that all this holds
// under concurrency and over a reopening, and that random operations from a
// printed seed agree with a map. What it cannot check is durability: that needs a
// loss of power.
package extenttest
