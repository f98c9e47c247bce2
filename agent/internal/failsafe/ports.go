package failsafe

import v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

// This file is what only the controller asks for.

// Inbound returns Felix's failsafe on a node, as it would be without us or, where want is not nil,
// narrowed to that. own and def are as for Plan. What we wrote has all of it but may be behind: a
// port that def has lost is about to go from it, too. The error is as that of Plan.
func Inbound(own, def *Configuration, want *Want) ([]v3.ProtoPort, error) {
	wrote, err := remembered(own)
	if err != nil {
		return nil, err
	}
	before, err := listOf(own)
	if err != nil {
		return nil, err
	}
	list, err := effective(own, def, wrote.before(before))
	if err == nil && want != nil {
		list = narrow(list, *want)
	}
	return list, err
}

// Ports returns the TCP ports to which Felix's failsafe on a node would let somebody in without
// us.
func Ports(own, def *Configuration) (ports []uint16, err error) {
	list, err := Inbound(own, def, nil)
	for _, entry := range list {
		if protocol(entry) == tcp {
			ports = append(ports, entry.Port)
		}
	}
	return ports, err
}
