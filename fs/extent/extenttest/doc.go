// Package extenttest is the conformance suite that every extent.Store passes,
// and a wrapper that injects faults for the tests of what is above.
package extenttest
