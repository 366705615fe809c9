package gateway

import (
	"fmt"
	"sort"
	"strings"
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
	"sigs.k8s.io/gateway-api/conformance/tests"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
)

// TestConformance is the official suite, nothing added: flags say what runs (tests/kube/gateway/conformance.py).
func TestConformance(t *testing.T) { conformance.RunConformance(t) }

var profiles = []suite.ConformanceProfile{suite.MeshHTTPConformanceProfile, suite.MeshGRPCConformanceProfile, suite.GatewayHTTPConformanceProfile,
	suite.GatewayGRPCConformanceProfile, suite.GatewayTLSConformanceProfile, suite.GatewayTCPConformanceProfile, suite.GatewayUDPConformanceProfile}

// TestFeatures lists what the suite holds: per profile its features, and each test with its kind and features.
func TestFeatures(t *testing.T) {
	for _, p := range profiles {
		var core, ext []string
		for f := range p.CoreFeatures {
			core = append(core, string(f))
		}
		for f := range p.ExtendedFeatures {
			ext = append(ext, string(f))
		}
		sort.Strings(core)
		sort.Strings(ext)
		fmt.Printf("profile %s core=%s\nprofile %s extended=%s\n", p.Name, strings.Join(core, ","), p.Name, strings.Join(ext, ","))
		for _, c := range tests.ConformanceTests {
			kind := "core"
			for _, f := range c.Features {
				if p.ExtendedFeatures.Has(f) && kind == "core" {
					kind = "extended"
				} else if !p.CoreFeatures.Has(f) && !p.ExtendedFeatures.Has(f) {
					kind = ""
					break
				}
			}
			if kind != "" {
				fmt.Printf("test %s %s %s %v parallel=%v provisional=%v\n", p.Name, kind, c.ShortName, c.Features, c.Parallel, c.Provisional)
			}
		}
	}
	for _, c := range tests.ConformanceTests {
		fmt.Printf("any %s %v\n", c.ShortName, c.Features)
	}
}
