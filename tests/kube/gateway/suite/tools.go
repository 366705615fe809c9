//go:build tools

// Keeps echo-basic (the image of the suite's gateway back ends) in go.mod and go.sum: built from this module too.
package gateway

import _ "sigs.k8s.io/gateway-api/conformance/echo-basic"
