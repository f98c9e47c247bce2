package failsafe

// This file is what only the controller asks for.

// Ports returns the TCP ports to which Felix's failsafe on a node lets somebody in. own and
// def are as for Plan.
func Ports(own, def *Configuration) (ports []uint16, err error) {
	before, err := listOf(own)
	if err != nil {
		return nil, err
	}
	list, err := effective(own, def, before)
	for _, entry := range list {
		if protocol(entry) == tcp {
			ports = append(ports, entry.Port)
		}
	}
	return ports, err
}
