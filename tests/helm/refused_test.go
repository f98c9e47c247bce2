package helm_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/chartutil"
)

// Every refusal has to name the value. Where the chart says it itself, the words say what to write.
func TestWrongValuesAreRefusedByName(t *testing.T) {
	t.Parallel()
	const ssh = `ssh: {cidrs: [192.0.2.0/24]}`
	for _, test := range []struct {
		values string
		words  []string
	}{
		// unknown keys, at every level
		{`surprise: 1`, []string{"'surprise' not allowed"}},
		{`calico: {group: ""}`, []string{"/calico", "'group' not allowed"}},
		{`ssh: {cidr: []}`, []string{"/ssh", "'cidr' not allowed"}},
		{`cluster: {trust: true}`, []string{"/cluster", "'trust' not allowed"}},
		{`essential: {loopback: false}`, []string{"/essential", "'loopback' not allowed"}},
		{`policies: {allowssh: {order: 1}}`, []string{"/policies", "'allowssh' not allowed"}},
		{`policies: {allowOutbound: {preDNAT: true}}`, []string{"/policies/allowOutbound", "'preDNAT' not allowed"}},
		{`policies: {dropOther: {enabled: false}}`, []string{"/policies/dropOther", "'enabled' not allowed"}},
		{`hostEndpoint: {label: {}}`, []string{"/hostEndpoint", "'label' not allowed"}},
		{`agent: {replicas: 1}`, []string{"/agent", "'replicas' not allowed"}},
		{`agent: {image: {name: x}}`, []string{"/agent/image", "'name' not allowed"}},
		{`agent: {imagePullSecrets: [{secret: x}]}`, []string{"/agent/imagePullSecrets/0", "'secret' not allowed"}},
		{`agent: {kubernetesService: {ip: x}}`, []string{"/agent/kubernetesService", "'ip' not allowed"}},
		{`agent: {health: {host: 0.0.0.0}}`, []string{"/agent/health", "'host' not allowed"}},
		{`agent: {metrics: {path: /m}}`, []string{"/agent/metrics", "'path' not allowed"}},
		{`ingress: [{name: web, cidrs: [10.0.0.0/8], protocol: TCP, port: 80}]`, []string{"/ingress/0", "'port' not allowed"}},
		{`policies: {allowIngress: {enabled: true}}`, []string{"/policies/allowIngress", "'enabled' not allowed"}},
		{`admissionPolicy: {enforce: true}`, []string{"/admissionPolicy", "'enforce' not allowed"}},
		{`podMonitor: {namespace: x}`, []string{"/podMonitor", "'namespace' not allowed"}},
		{`prometheusRule: {rules: []}`, []string{"/prometheusRule", "'rules' not allowed"}},
		{`dashboard: {folder: x}`, []string{"/dashboard", "'folder' not allowed"}},
		{`cleanup: {image: x}`, []string{"/cleanup", "'image' not allowed"}},
		{`agent: {log: {colour: true}}`, []string{"/agent/log", "'colour' not allowed"}},
		{`rollout: {retry: true}`, []string{"/rollout", "'retry' not allowed"}},
		{`rollout: {acceptCuts: {nodes: [a]}}`, []string{"/rollout/acceptCuts", "'nodes' not allowed"}},
		{`rollout: {onWouldCut: wait, watchPeers: never}`, []string{"rollout.onWouldCut is wait and rollout.watchPeers is never", "Write rollout.watchPeers: auto"}},
		{`{agent: {enabled: false}, hostEndpoint: {interfaces: [eth0, "*"]}}`, []string{`agent.enabled is false and hostEndpoint.interfaces is ["eth0","*"]`, `Write hostEndpoint.interfaces: ["*"]`}},
		{`{agent: {enabled: false}, rollout: {watchPeers: always}}`, []string{"agent.enabled is false and rollout.watchPeers is always", "Write rollout.watchPeers: never"}},
		{`{agent: {enabled: false}, rollout: {onWouldCut: wait}}`, []string{"agent.enabled is false and rollout.onWouldCut is wait", "Write rollout.onWouldCut: report"}},
		{`agent: {enabled: false, updateStrategy: {type: OnDelete, rollingUpdate: null}}`, []string{"agent.enabled is false and agent.updateStrategy.type is OnDelete", "Write type: RollingUpdate"}},
		{`agent: {enabled: false, affinity: {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: []}, nodeAffinity: null}}`, []string{"agent.enabled is false and agent.affinity says more"}},
		{`agent: {enabled: false, affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: cores, operator: Gt, values: ["4"]}]}]}}}}`, []string{"agent.enabled is false and agent.affinity says more", "Write one term of nodeAffinity"}},
		{`agent: {enabled: false, staticPods: {enabled: true}}`, []string{"agent.enabled is false and agent.staticPods.enabled is true", "Write one of them only"}},
		{`agent: {enabled: 1}`, []string{"/agent/enabled", "want boolean"}},
		{`rollout: {onWouldCut: stop}`, []string{"/rollout/onWouldCut", "must be one of 'report', 'wait'"}},
		{`rollout: {acceptCuts: {ports: ["9100-9200"]}}`, []string{"rollout.acceptCuts.ports[0] is \"9100-9200\", not a port"}},
		{`rollout: {acceptCuts: {ports: ["9200:9100"]}}`, []string{"rollout.acceptCuts.ports[0]", "ends before it begins"}},
		{`rollout: {acceptCuts: {cidrs: [10.4.0.1/16]}}`, []string{"rollout.acceptCuts.cidrs[0] is 10.4.0.1/16, which has host bits"}},
		{`rbac: {enabled: true}`, []string{"/rbac", "'enabled' not allowed"}},
		{`serviceAccount: {labels: {}}`, []string{"/serviceAccount", "'labels' not allowed"}},

		// what must be there
		{`ssh: null`, []string{"missing property 'ssh'"}},
		{`mode: null`, []string{"missing property 'mode'"}},
		{`cleanup: null`, []string{"missing property 'cleanup'"}},
		{`ssh: {narrowFailsafe: null}`, []string{"/ssh", "missing property 'narrowFailsafe'"}},
		{`hostEndpoint: {adopt: null}`, []string{"/hostEndpoint", "missing property 'adopt'"}},
		{`policies: {dropOther: null}`, []string{"/policies", "missing property 'dropOther'"}},
		{`policies: {allowSSH: {order: null}}`, []string{"/policies/allowSSH", "missing property 'order'"}},
		{`cluster: {trustNodes: null}`, []string{"/cluster", "missing property 'trustNodes'"}},

		// values of the wrong kind or out of range
		{`mode: dry-run`, []string{"/mode", "must be one of 'enforce', 'audit', 'off'"}},
		{`mode: on`, []string{"/mode", "must be one of 'enforce', 'audit', 'off'"}},
		{`mode: ""`, []string{"/mode", "must be one of 'enforce', 'audit', 'off'"}},
		{`ssh: {allowEverywhere: "yes"}`, []string{"/ssh/allowEverywhere", "want boolean"}},
		{`ingress: {web: {}}`, []string{"/ingress", "want array"}},
		{`ingress: [{cidrs: [10.0.0.0/8], protocol: 112}]`, []string{"/ingress/0", "missing property 'name'"}},
		{`ingress: [{name: web, protocol: TCP, ports: [80]}]`, []string{"/ingress/0", "missing property 'cidrs'"}},
		{`ingress: [{name: web, cidrs: [10.0.0.0/8], ports: [80]}]`, []string{"/ingress/0", "missing property 'protocol'"}},
		{entry(`name: Web`), []string{"ingress[0].name is ", "Write "}},
		{entry(`cidrs: 10.0.0.0/8`), []string{`ingress[0].cidrs is "10.0.0.0/8", not a list. Write ingress[0].cidrs: ["10.0.0.0/8"].`}},
		{entry(`cidrs: null`), []string{"ingress[0].cidrs is empty: who is to be let in?"}},
		{entry(`ports: null`), []string{"ingress[0].ports is empty: without ports all of TCP would be open"}},
		{entry(`cidrs: [10.0.0.1]`), []string{"ingress[0].cidrs[0] is ", "Write "}},
		{entry(`protocol: tcp`), []string{"ingress[0].protocol is ", "Write "}},
		{entry(`protocol: 256`), []string{"/ingress/0/protocol", "maximum"}},
		{entry(`protocol: "112"`), []string{"ingress[0].protocol is ", "Write "}},
		{entry(`ports: 80`), []string{"ingress[0].ports is 80, not a list. Write ingress[0].ports: [80]."}},
		{entry(`ports: "80,443"`), []string{"Write ingress[0].ports: [80, 443]."}},
		{entry(`protocol: ""`), []string{"ingress[0].protocol is empty, not a protocol that Calico knows. Write TCP"}},
		{`ingress: [{name: vpn, cidrs: [0.0.0.0/0], protocol: ""}]`, []string{"ingress[0].protocol is empty"}},
		{entry(`name: ""`), []string{"ingress[0].name is empty, not a name. Write "}},
		{entry(`name: 1`), []string{"ingress[0].name is 1, not a text. Write it in quotes."}},
		{entry(`ports: [http]`), []string{"ingress[0].ports[0] is ", "Write "}},
		{`priorityAndFairness: {enabled: auto}`, []string{"/priorityAndFairness/enabled", "want boolean"}},
		{`admissionPolicy: {enabled: auto}`, []string{"/admissionPolicy/enabled", "want boolean"}},
		{`podMonitor: {interval: 30}`, []string{"podMonitor.interval is 30, not a time in hours, minutes and seconds. Write for example 30s"}},
		{`podMonitor: {interval: 30 s}`, []string{"podMonitor.interval is ", "Write "}},
		{`ssh: {narrowFailsafe: "no"}`, []string{"/ssh/narrowFailsafe", "want boolean"}},
		{`hostEndpoint: {interfaces: "*"}`, []string{`hostEndpoint.interfaces is "*", not a list. Write hostEndpoint.interfaces: ["*"].`}},
		{`hostEndpoint: {interfaces: ["eth0,eth1"]}`, []string{"hostEndpoint.interfaces[0] is ", "Write "}},
		{`hostEndpoint: {interfaces: ["eth["]}`, []string{"hostEndpoint.interfaces[0] is ", "Write "}},
		{`hostEndpoint: {interfaces: ["eth[9-]"]}`, []string{"hostEndpoint.interfaces[0] is ", "Write "}},
		{`hostEndpoint: {interfaces: ["eth 0"]}`, []string{"hostEndpoint.interfaces[0] is ", "Write "}},
		{`hostEndpoint: {interfaces: [""]}`, []string{"hostEndpoint.interfaces[0] is ", "Write "}},
		{`hostEndpoint: {interfaces: [eth0, eth0]}`, []string{"/hostEndpoint/interfaces", "items at 0 and 1 are equal"}},
		{`hostEndpoint: {nodeLabels: ["*"]}`, []string{"hostEndpoint.nodeLabels[0] is ", "Write "}},
		{`hostEndpoint: {nodeLabels: ["zone,rack"]}`, []string{"hostEndpoint.nodeLabels[0] is ", "Write "}},
		{`hostEndpoint: {nodeLabels: ["a*b"]}`, []string{"hostEndpoint.nodeLabels[0] is ", "Write "}},
		{`hostEndpoint: {nodeLabels: {zone: true}}`, []string{"/hostEndpoint/nodeLabels", "got object"}},
		{`hostEndpoint: {adopt: maybe}`, []string{"/hostEndpoint/adopt", "want boolean"}},
		{`hostEndpoint: {acceptPolicies: ["a*"]}`, []string{"hostEndpoint.acceptPolicies[0] is ", "Write "}},
		{`hostEndpoint: {acceptPolicies: [Upper]}`, []string{"hostEndpoint.acceptPolicies[0] is ", "Write "}},
		{`agent: {metrics: {enabled: "on"}}`, []string{"/agent/metrics/enabled", "want boolean"}},
		{`agent: {metrics: {port: 80}}`, []string{"/agent/metrics/port", "minimum"}},
		{`agent: {metrics: {address: node.example.org}}`, []string{"agent.metrics.address is ", "Write "}},
		{`agent: {metrics: {address: "127.0.0.1:9098"}}`, []string{"agent.metrics.address is ", "Write "}},
		{`cleanup: {enabled: "false"}`, []string{"/cleanup/enabled", "want boolean"}},
		{`cleanup: {timeoutSeconds: 4m}`, []string{"/cleanup/timeoutSeconds", "want integer"}},
		{`cleanup: {timeoutSeconds: 5}`, []string{"/cleanup/timeoutSeconds", "minimum"}},
		{`calico: {apiGroup: projectcalico.org/v1}`, []string{"/calico/apiGroup", "projectcalico.org/v3"}},
		{`ssh: {cidrs: 192.0.2.0/24}`, []string{`ssh.cidrs is "192.0.2.0/24", not a list. Write ssh.cidrs: ["192.0.2.0/24"].`}},
		{`ssh: {cidrs: "192.0.2.0/24, 2001:db8::/32"}`, []string{`Write ssh.cidrs: ["192.0.2.0/24", "2001:db8::/32"].`}},
		{`ssh: {cidrs: ""}`, []string{`ssh.cidrs is "", not a list. Write ssh.cidrs: [].`}},
		{`ssh: {ports: [0]}`, []string{"/ssh/ports/0", "minimum"}},
		{`ssh: {ports: [65536]}`, []string{"/ssh/ports/0", "maximum"}},
		{`ssh: {ports: [22.5]}`, []string{"/ssh/ports/0", "want integer or string"}},
		{`ssh: {ports: ["22"]}`, []string{"ssh.ports[0] is ", "Write "}},
		{`ssh: {ports: [ssh]}`, []string{"ssh.ports[0] is ", "Write "}},
		{`ssh: {ports: ["22-30"]}`, []string{"ssh.ports[0] is ", "Write "}},
		{`ssh: {ports: ["1:65536"]}`, []string{"ssh.ports[0] is ", "Write "}},
		{`essential: {apiServerPorts: [0]}`, []string{"/essential/apiServerPorts/0"}},
		{`essential: {apiServerPorts: 443}`, []string{"essential.apiServerPorts is 443, not a list. Write essential.apiServerPorts: [443]."}},
		{`essential: {apiServerPorts: [443, "6443"]}`, []string{`essential.apiServerPorts[1] is "6443", not a port. Write 6443 without quotes.`}},
		{`essential: {apiServerPorts: ["6443:6444"]}`, []string{`essential.apiServerPorts[0] is "6443:6444", not a port. Write a number from 1 to 65535.`}},
		{`cluster: {trustPods: "yes"}`, []string{"/cluster/trustPods", "want boolean"}},
		{`policies: {allowSSH: {order: first}}`, []string{"/policies/allowSSH/order", "want number"}},
		{`hostEndpoint: {labels: {host-endpoint: true}}`, []string{"hostEndpoint.labels.host-endpoint is true, not a text. Write it in quotes."}},
		{`hostEndpoint: {labels: {"a b": x}}`, []string{`hostEndpoint.labels has a key that is "a b", not the key of a label`}},
		{`hostEndpoint: {labels: {a: "it's"}}`, []string{"hostEndpoint.labels.a is ", "Write "}},
		{`hostEndpoint: {profiles: [projectcalico-default-alow]}`, []string{"/hostEndpoint", "'profiles' not allowed"}},
		{`agent: {image: {repository: ""}}`, []string{"agent.image.repository is empty, not the name of an image"}},
		{`agent: {image: {repository: "https://registry.example.org/agent"}}`, []string{`agent.image.repository is "https://registry.example.org/agent", not the name of an image without its tag`}},
		{`agent: {image: {repository: "registry.example.org:5000/agent:0.1.0"}}`, []string{"agent.image.repository is ", "without its tag"}},
		{`agent: {image: {repository: "agent:0.1.0"}}`, []string{"agent.image.repository is ", "without its tag"}},
		{`agent: {image: {repository: "agent:2"}}`, []string{`agent.image.repository is "agent:2", not the name of an image without its tag. Write for example `}},
		{`agent: {image: {tag: 1.0}}`, []string{"agent.image.tag is 1, not a text. Write it in quotes."}},
		{`agent: {image: {tag: "a:b"}}`, []string{"agent.image.tag is ", "Write "}},
		{`agent: {image: {digest: sha256:abc}}`, []string{"agent.image.digest is ", "Write "}},
		{`agent: {image: {pullPolicy: Sometimes}}`, []string{"/agent/image/pullPolicy", "IfNotPresent"}},
		{`agent: {runAsUser: -1}`, []string{"/agent/runAsUser", "minimum"}},
		{`agent: {health: {port: 80}}`, []string{"/agent/health/port", "minimum"}},
		{`agent: {kubernetesService: {host: "https://api"}}`, []string{"agent.kubernetesService.host is ", "Write "}},
		{`agent: {kubernetesService: {host: 10.0.0.256}}`, []string{`agent.kubernetesService.host is "10.0.0.256", not an address or a name. Write for example 192.0.2.1, 2001:db8::1 or api.example.org, without a port.`}},
		{`agent: {kubernetesService: {host: "::::"}}`, []string{`agent.kubernetesService.host is "::::"`}},
		{`agent: {kubernetesService: {host: "cafe:6443"}}`, []string{`agent.kubernetesService.host is "cafe:6443"`, "without a port"}},
		{`agent: {kubernetesService: {host: "192.0.2.1:6443"}}`, []string{"agent.kubernetesService.host is ", "without a port"}},
		{`agent: {kubernetesService: {host: api..example.org}}`, []string{"agent.kubernetesService.host is "}},
		{`agent: {kubernetesService: {port: 70000}}`, []string{"/agent/kubernetesService/port", "maximum"}},
		{`agent: {log: {level: loud}}`, []string{"/agent/log/level", "debug"}},
		{`agent: {log: {format: xml}}`, []string{"/agent/log/format", "json"}},
		{`agent: {resync: 10}`, []string{"agent.resync is 10, not a time in hours, minutes and seconds. Write for example 10m"}},
		{`agent: {resync: ""}`, []string{"agent.resync is empty, not a time"}},
		{`agent: {resync: 0s}`, []string{"agent.resync is ", "Write "}},
		{`agent: {resync: 500ms}`, []string{"agent.resync is ", "Write "}},
		{`agent: {resync: 10 minutes}`, []string{"agent.resync is ", "Write "}},
		{`rollout: {verify: "no"}`, []string{"/rollout/verify", "want boolean"}},
		{`rollout: {watchPeers: sometimes}`, []string{"/rollout/watchPeers", "value must be one of 'auto', 'always', 'never'"}},
		{`rollout: {confirm: 15}`, []string{"rollout.confirm is 15, not a time in hours, minutes and seconds. Write for example 15m, or nothing where nobody has to confirm."}},
		{`rollout: {confirm: false}`, []string{"rollout.confirm is false, not a time"}},
		{`rollout: {confirm: 1d}`, []string{`rollout.confirm is "1d", not a time`}},
		{`rollout: {confirm: 59s}`, []string{"rollout.confirm is 59s: ", "Write at least 1m, and more than it takes until all nodes have moved"}},
		{`rollout: {confirm: 24h1s}`, []string{"rollout.confirm is 24h1s: ", "Write at most 24h, or nothing where nobody has to confirm."}},
		{`rollout: {confirm: 23h59m61s}`, []string{"rollout.confirm is 23h59m61s: ", "Write at most 24h"}},
		{`rollout: {confirm: 24h08s}`, []string{"rollout.confirm is 24h08s: ", "Write at most 24h"}},
		{`agent: {nodeSelector: {a: true}}`, []string{"agent.nodeSelector.a is true, not a text. Write it in quotes."}},
		{`commonLabels: {cost-center: 1234}`, []string{"commonLabels.cost-center is 1234, not a text. Write it in quotes."}},
		{`commonLabels: {a: ` + strings.Repeat("a", 64) + `}`, []string{"not the value of a label. Write at most 63 letters"}},
		{`commonLabels: {` + strings.Repeat("a", 64) + `: b}`, []string{"not the key of a label. Write for example zone or example.org/zone."}},
		{`hostEndpoint: {nodeLabels: [` + strings.Repeat("a", 64) + `]}`, []string{"not the key of a label or its beginning. Write for example topology"}},
		{`agent: {podAnnotations: {prometheus.io/scrape: true}}`, []string{"agent.podAnnotations.prometheus.io/scrape is true, not a text. Write it in quotes."}},
		{`nameOverride: 1`, []string{"nameOverride is 1, not a text. Write it in quotes."}},
		{`agent: {podLabels: {a: "x y"}}`, []string{"agent.podLabels.a is ", "Write "}},
		{`commonAnnotations: {a: 1}`, []string{"commonAnnotations.a is 1, not a text. Write it in quotes."}},
		{`agent: {metrics: {address: "1::2::3"}}`, []string{"agent.metrics.address is ", "Write "}},
		{`serviceAccount: {name: a..b}`, []string{"serviceAccount.name is ", "Write "}},
		{`nameOverride: a.b`, []string{"nameOverride is ", "Write "}},
		{`fullnameOverride: a.b`, []string{"fullnameOverride is ", "Write "}},
		{`fullnameOverride: ` + strings.Repeat("a", 48), []string{"fullnameOverride is ", "Write "}},

		{`agent: {image: {registry: "https://mirror.example.org"}}`, []string{`agent.image.registry is "https://mirror.example.org", not a registry`, "Write for example mirror.example.org:5000"}},
		{`global: {imageRegistry: "mirror.example.org/"}`, []string{"global.imageRegistry is ", "not a registry"}},
		{`agent: {image: {repository: "agent:v2"}}`, []string{`agent.image.repository is "agent:v2", not the name of an image`}},
		{`agent: {image: {repository: "https://mirror.example.org/agent"}}`, []string{"agent.image.repository is ", "not the name of an image"}},
		{`hostEndpoint: {interfaces: [br-0123456789abcdef]}`, []string{`hostEndpoint.interfaces[0] is "br-0123456789abcdef", not the name of an interface`, "Write at most 15 characters"}},
		{`hostEndpoint: {interfaces: ["*0123456789abcde?"]}`, []string{"hostEndpoint.interfaces[0] is ", "Write at most 15 characters"}},
		{`hostEndpoint: {interfaces: ["", "*"]}`, []string{"hostEndpoint.interfaces[0] is ", "Write at most 15 characters"}},
		{`hostEndpoint: {interfaces: [a/b]}`, []string{"hostEndpoint.interfaces[0] is ", "Write at most 15 characters"}},
		// what Kubernetes would refuse, or would make nothing of
		{`agent: {updateStrategy: {type: Recreate}}`, []string{"/agent/updateStrategy/type", "'OnDelete'"}},
		{`agent: {updateStrategy: {rollingUpdate: {maxSurge: 1}}}`, []string{"/agent/updateStrategy/rollingUpdate", "'maxSurge' not allowed"}},
		{`agent: {updateStrategy: {rollingUpdate: {maxUnavailable: 0}}}`, []string{"/agent/updateStrategy/rollingUpdate/maxUnavailable", "minimum"}},
		{`agent: {updateStrategy: {rollingUpdate: {maxUnavailable: 101%}}}`, []string{`agent.updateStrategy.rollingUpdate.maxUnavailable is "101%"`, "Write from 1% to 100%"}},
		{`agent: {extraEnv: [{name: A, value: 1}]}`, []string{"agent.extraEnv[0].value is 1, not a text. Write it in quotes."}},
		{`agent: {extraEnv: [{name: ""}]}`, []string{"agent.extraEnv[0].name is empty, not the name of an environment variable"}},
		{`agent: {extraEnv: [{name: A, valueFrom: {secretKeyRef: {name: a, key: ""}}}]}`, []string{"agent.extraEnv[0].valueFrom.secretKeyRef.key is empty"}},
		{`agent: {extraEnv: [{name: A, valueFrom: {resourceFieldRef: {containerName: agent, resource: limits.memory}}}]}`, []string{"/agent/extraEnv/0/valueFrom/resourceFieldRef", "'containerName' not allowed"}},
		{`agent: {updateStrategy: {rollingUpdate: {maxUnavailable: ""}}}`, []string{"agent.updateStrategy.rollingUpdate.maxUnavailable is empty, not a percentage. Write from 1% to 100%"}},
		{`agent: {extraEnv: [{name: A, valeu: a}]}`, []string{"/agent/extraEnv/0", "'valeu' not allowed"}},
		{`agent: {staticPods: {folder: etc}}`, []string{`agent.staticPods.folder is "etc", not a folder of a node. Write for example /etc/host-firewall.`}},
		{`agent: {staticPods: {enabled: true}, extraEnv: [{name: A, valueFrom: {secretKeyRef: {name: a, key: b}}}]}`, []string{"agent.extraEnv[0] (A) comes from a Secret or a ConfigMap", "Write its value."}},
		{`agent: {staticPods: {enabled: true}, extraEnv: [{name: A, valueFrom: {configMapKeyRef: {name: a, key: b}}}]}`, []string{"agent.extraEnv[0] (A) comes from a Secret or a ConfigMap"}},
		{`agent: {extraEnv: [{name: A=, value: a}]}`, []string{`agent.extraEnv[0].name is "A="`, "Write letters"}},
		{`agent: {extraEnv: [{name: A, value: a, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]}`, []string{"/agent/extraEnv/0/value", "maxLength"}},
		{`agent: {extraEnv: [{name: A, valueFrom: {fieldRef: {fieldPath: spec.hostNetwork}}}]}`, []string{`agent.extraEnv[0].valueFrom.fieldRef.fieldPath is "spec.hostNetwork"`, "Write for example spec.nodeName"}},
		{`agent: {extraEnv: [{name: A, value: a}, {name: B}, {name: A, value: b}]}`, []string{"agent.extraEnv[2].name is A, the name of agent.extraEnv[0] too", "Write each variable once"}},
		{`agent: {tolerations: [{key: "", value: a}]}`, []string{"agent.tolerations[0].key is empty, not the key of a label"}},
		{`cleanup: {tolerations: [{key: "", operator: Equal}]}`, []string{"cleanup.tolerations[0].key is empty"}},
		{`agent: {tolerations: [{key: a, value: true}]}`, []string{"agent.tolerations[0].value is true, not a text. Write it in quotes."}},
		{`agent: {tolerations: [{operator: Exist}]}`, []string{"/agent/tolerations/0/operator", "'Exists'"}},
		{`agent: {tolerations: [{value: a}]}`, []string{"/agent/tolerations/0", "missing property 'key'"}},
		{`agent: {tolerations: [{key: a, operator: Exists, value: a}]}`, []string{"/agent/tolerations/0/value", "maxLength"}},
		{`cleanup: {tolerations: [{key: a, effect: NoSchedule, tolerationSeconds: 3}]}`, []string{"/cleanup/tolerations/0/effect", "NoExecute"}},
		{`agent: {tolerations: [{operator: Exists}, {key: a b}]}`, []string{`agent.tolerations[1].key is "a b"`, "Write "}},
		{`agent: {extraEnv: [{name: A, valueFrom: {secretKeyRef: {name: A_, key: b}}}]}`, []string{"agent.extraEnv[0].valueFrom.secretKeyRef.name is ", "Write "}},
		{`agent: {nodeSelector: {"a b": c}}`, []string{"agent.nodeSelector has a key that is ", "Write "}},
		{`agent: {affinity: {nodeAfinity: {}}}`, []string{"/agent/affinity", "'nodeAfinity' not allowed"}},
		{`agent: {affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Is}]}]}}}}`, []string{"/operator", "'DoesNotExist'"}},
		{`agent: {resources: {limits: {memory: 64MB}}}`, []string{`agent.resources.limits.memory is "64MB", not an amount`, "Write for example 100m or 64Mi"}},
		{`agent: {resources: {limits: {memory: ""}}}`, []string{"agent.resources.limits.memory is empty, not an amount"}},
		{`agent: {resources: {requests: {cpu: ""}}}`, []string{"agent.resources.requests.cpu is empty, not an amount"}},
		{`agent: {resources: {limits: {cpu: 0}}}`, []string{"agent.resources.requests.cpu is 10m and agent.resources.limits.cpu is 0"}},
		{`agent: {resources: {limits: {memory: 16Mi}}}`, []string{"agent.resources.requests.memory is 32Mi and agent.resources.limits.memory is 16Mi", "Write a limit that is not below"}},
		{`agent: {resources: {requests: {cpu: 1}, limits: {cpu: 900m}}}`, []string{"agent.resources.requests.cpu is 1 and agent.resources.limits.cpu is 900m"}},
		{`agent: {priorityClassName: High}`, []string{"agent.priorityClassName is ", "Write high"}},
		{`serviceAccount: {name: host-firewall-cleanup}`, []string{"serviceAccount.name is host-firewall-cleanup", "Write another name"}},
		{`serviceAccount: {create: false, name: host-firewall-test}`, []string{"serviceAccount.name is host-firewall-test", "Write another name"}},
		{`podMonitor: {relabelings: [{target: a}]}`, []string{"/podMonitor/relabelings/0", "'target' not allowed"}},
		{`podMonitor: {scrapeTimeout: 5 s}`, []string{"podMonitor.scrapeTimeout is ", "Write "}},
		{`agent: {imagePullSecrets: [{name: a}, {name: b}, {name: a}]}`, []string{"/agent/imagePullSecrets", "items at 0 and 2 are equal"}},
		{`global: {imageRegistry: 1}`, []string{"global.imageRegistry is 1, not a text. Write it in quotes."}},
		{`global: {imagePullSecrets: [{secret: a}]}`, []string{"/global/imagePullSecrets/0", "'secret' not allowed"}},
		{`anchors: {}`, []string{"'anchors' not allowed"}},
		{`enabled: false`, []string{"enabled is false, and nothing heeds it", "Write mode: off"}},

		// networks that have the form of one
		{`ssh: {cidrs: [192.0.2.1/24]}`, []string{"ssh.cidrs[0] is 192.0.2.1/24, which has host bits", "Write 192.0.2.0/24 for the network or 192.0.2.1/32 for the host"}},
		{`ssh: {cidrs: [10.0.0.0/8, 10.128.0.0/8]}`, []string{"ssh.cidrs[1]", "Write 10.0.0.0/8 for"}},
		{`ssh: {cidrs: [192.0.2.130/26]}`, []string{"Write 192.0.2.128/26 for"}},
		{`ssh: {cidrs: [192.0.2.1/0]}`, []string{"Write 0.0.0.0/0 for"}},
		{`cluster: {cidrs: ["2001:db8::1/64"]}`, []string{"cluster.cidrs[0] is 2001:db8::1/64", "Write 2001:db8::/64 for the network or 2001:db8::1/128 for the host"}},
		{`cluster: {cidrs: ["2001:db8:0:ffff::/52"]}`, []string{"Write 2001:db8:0:f000::/52 for"}},
		{`cluster: {cidrs: ["2001:DB8:ABCD:9::/62"]}`, []string{"Write 2001:db8:abcd:8::/62 for"}},
		{`essential: {nodeLocalDNS: [169.254.20.10/16]}`, []string{`essential.nodeLocalDNS[0] is "169.254.20.10/16", not a single address`}},
		{`ssh: {cidrs: ["::ffff:c000:200/120"]}`, []string{"ssh.cidrs[0]", "Write it as IPv4"}},
		{`ssh: {cidrs: ["0:0:0::FFFF:c000:200/120"]}`, []string{"ssh.cidrs[0]", "Write it as IPv4"}},

		// ports
		{`ssh: {cidrs: [192.0.2.0/24], ports: []}`, []string{"ssh.ports is empty", "ssh.ports: [22]"}},
		{`ssh: {cidrs: [192.0.2.0/24], ports: null}`, []string{"ssh.ports is empty", "ssh.ports: [22]"}},
		{`ssh: {ports: ["30:22"]}`, []string{`ssh.ports[0] is "30:22"`, `Write "22:30"`}},
		{`ssh: {ports: ["10000:9999"]}`, []string{`ssh.ports[0]`, `Write "9999:10000"`}},

		// further connections
		{entry(`cidrs: [10.0.0.1/8]`), []string{"ingress[0].cidrs[0] is 10.0.0.1/8", "Write 10.0.0.0/8 for the network"}},
		{entry(`cidrs: []`), []string{"ingress[0].cidrs is empty", `ingress[0].cidrs: [0.0.0.0/0, "::/0"]`}},
		{entry(`ports: ["443:80"]`), []string{`ingress[0].ports[0] is "443:80"`, `Write "80:443"`}},
		{entry(`ports: []`), []string{"ingress[0].ports is empty: without ports all of TCP would be open", "ingress[0].ports: [443]"}},
		{`ingress: [{name: web, cidrs: [10.0.0.0/8], protocol: UDP}]`, []string{"ingress[0].ports is empty: without ports all of UDP would be open"}},
		{entry(`protocol: 112`), []string{"ingress[0].ports is given and ingress[0].protocol is 112", "Leave ingress[0].ports out"}},
		{entry(`protocol: ICMP`), []string{"ingress[0].ports is given and ingress[0].protocol is ICMP"}},
		{entry(`protocol: 6`), []string{"ingress[0].protocol is 6, the number of TCP", "Write ingress[0].protocol: TCP"}},
		{entry(`protocol: 58`), []string{"the number of ICMPv6"}},
		{`ingress: [{name: a, cidrs: [10.0.0.0/8, "fd00::/8"], protocol: ICMP}]`, []string{"ingress[0].cidrs[1] is fd00::/8 and ingress[0].protocol is ICMP", "protocol: ICMPv6"}},
		{`ingress: [{name: a, cidrs: [10.0.0.0/8], protocol: ICMPv6}]`, []string{"ingress[0].cidrs[0] is 10.0.0.0/8 and ingress[0].protocol is ICMPv6", "protocol: ICMP "}},
		{`ingress: [{name: a, cidrs: [10.0.0.0/8], protocol: 4}, {name: a, cidrs: [10.0.0.0/8], protocol: 41}]`,
			[]string{"ingress[1].name is a, the name of ingress[0] too", "Write another name"}},

		// SSH for everybody
		{`ssh: {cidrs: [0.0.0.0/0]}`, []string{"ssh.cidrs leaves nobody out over IPv4", "ssh.allowEverywhere: true"}},
		{`ssh: {cidrs: [192.0.2.0/24, "::/0"]}`, []string{"ssh.cidrs leaves nobody out over IPv6"}},
		{`ssh: {cidrs: [128.0.0.0/1, 10.0.0.0/8, 0.0.0.0/1]}`, []string{"ssh.cidrs leaves nobody out over IPv4"}},
		{`ssh: {cidrs: [0.0.0.0/1, 128.0.0.0/2, 192.0.0.0/3]}`, []string{"ssh.cidrs leaves nobody out over IPv4"}},
		{`ssh: {cidrs: [192.0.2.0/24, "2000::/4", "3000::/4"]}`, []string{"ssh.cidrs leaves nobody out over IPv6"}},

		// All addresses that somebody can have.
		{`ssh: {cidrs: [1.0.0.0/8, 2.0.0.0/7, 4.0.0.0/6, 8.0.0.0/5, 16.0.0.0/4, 32.0.0.0/3, 64.0.0.0/3, 96.0.0.0/4, 112.0.0.0/5, 120.0.0.0/6,
		  124.0.0.0/7, 126.0.0.0/8, 128.0.0.0/2, 192.0.0.0/3]}`, []string{"ssh.cidrs leaves nobody out over IPv4"}},
		{`cluster: {cidrs: [0.0.0.0/0]}`, []string{"cluster.cidrs leaves nobody out over IPv4", "and so would everything else", "ssh.allowEverywhere: true"}},
		{`{ssh: {ports: []}, cluster: {cidrs: [0.0.0.0/0]}}`, []string{"cluster.cidrs leaves nobody out over IPv4"}},
		{`{ssh: {cidrs: [192.0.2.0/24]}, cluster: {cidrs: [10.0.0.0/8, "::/1", "8000::/1"]}}`, []string{"cluster.cidrs leaves nobody out over IPv6"}},
		{`{ssh: {cidrs: [0.0.0.0/1]}, cluster: {cidrs: ["fd00::/8", 128.0.0.0/1]}}`, []string{"cluster.cidrs and ssh.cidrs leave nobody out over IPv4"}},
		{sshBeside(`cidrs: [10.0.0.0/8]`, `cidrs: [0.0.0.0/0, "::/0"]`, `ports: [22]`), []string{"ingress[1].cidrs leaves nobody out over IPv4"}},
		{sshBeside(`cidrs: [10.0.0.0/8]`, `cidrs: ["::/0"]`, `ports: [80, "20:25"]`), []string{"ingress[1].cidrs leaves nobody out over IPv6"}},
		{sshBeside(`cidrs: [10.0.0.0/8], ports: [22, 2222]`, `cidrs: [0.0.0.0/0]`, `ports: ["2200:2299"]`), []string{"ingress[1].cidrs leaves nobody out over IPv4"}},
		{sshBeside(`cidrs: [10.0.0.0/8], ports: ["2200:2299"]`, `cidrs: [0.0.0.0/0]`, `ports: [2222]`), []string{"ingress[1].cidrs leaves nobody out over IPv4"}},
		{sshBeside(`cidrs: [128.0.0.0/1]`, `cidrs: [0.0.0.0/1]`, `ports: ["1:65535"]`), []string{"ingress[1].cidrs and ssh.cidrs leave nobody out over IPv4"}},

		// NodeLocal DNSCache is trusted with everything
		{`essential: {nodeLocalDNS: [169.254.0.0/16]}`, []string{`essential.nodeLocalDNS[0] is "169.254.0.0/16", not a single address with /32 or /128. Write for example 169.254.20.10/32.`}},
		{`essential: {nodeLocalDNS: [169.254.20.10/32, "::/0"]}`, []string{`essential.nodeLocalDNS[1] is "::/0", not a single address`}},

		// what narrowing would take from others
		{`ssh: {ports: [22, "2000:7000"]}`, []string{`ssh.ports[1] is "2000:7000"`, "2379 (etcd), 2380 (etcd), 5473 (Typha), 6443 (the API server), 6666 (etcd), 6667 (etcd)", "Write ports and ranges without them"}},
		{`{ssh: {cidrs: [192.0.2.0/24], ports: [179]}}`, []string{"ssh.ports[0] is 179", ": 179 (BGP)."}},
		{`{ssh: {ports: [22, "400:500"]}, essential: {apiServerPorts: [443]}}`, []string{`ssh.ports[1] is "400:500"`, ": 443 (the API server)."}},
		{`ssh: {ports: ["6444:6666"]}`, []string{": 6666 (etcd)."}},

		// audit
		{"mode: audit\npolicies: {dropOther: {preDNAT: false}}", []string{"mode is audit and policies.dropOther.preDNAT is false", "Write preDNAT: true and applyOnForward: true", "or mode: off"}},

		// endpoints
		{`hostEndpoint: {interfaces: []}`, []string{"hostEndpoint.interfaces is empty", `hostEndpoint.interfaces: ["*"]`}},
		{`hostEndpoint: {interfaces: null}`, []string{"hostEndpoint.interfaces is empty"}},
		{`hostEndpoint: {nodeLabels: [zone, host-endpoint]}`, []string{"hostEndpoint.nodeLabels[1] is host-endpoint", "Write another label"}},
		{`hostEndpoint: {nodeLabels: [host-firewall.io/release]}`, []string{"hostEndpoint.nodeLabels[0] is host-firewall.io/release"}},
		{`hostEndpoint: {labels: {host-firewall.io/release: x}}`, []string{"hostEndpoint.labels has host-firewall.io/release", "Write a label of your own"}},
		{`hostEndpoint: {labels: {projectcalico.org/created-by: x}}`, []string{"hostEndpoint.labels has projectcalico.org/created-by"}},

		// policies against each other
		{`policies: {dropOther: {order: 10}}`, []string{"policies.dropOther.order is 10 and policies.allowCluster.order is 10", "above 10"}},
		{`policies: {allowEssential: {order: 20.5}}`, []string{"policies.allowEssential.order is 20.5", "above 20.5"}},
		{ssh + "\npolicies: {allowSSH: {order: 21}}", []string{"policies.allowSSH.order is 21", "above 21"}},
		{`policies: {allowCluster: {applyOnForward: false}}`, []string{"policies.allowCluster.preDNAT is true and policies.allowCluster.applyOnForward is false", "applyOnForward: true, or preDNAT: false"}},
		{`policies: {dropOther: {applyOnForward: false}}`, []string{"policies.dropOther.applyOnForward: true, or preDNAT: false"}},
		{ssh + "\npolicies: {allowSSH: {preDNAT: false}}", []string{"allowSSH would never be asked", "Write policies.allowSSH.preDNAT: true, or policies.dropOther.preDNAT: false"}},
		{`policies: {allowEssential: {preDNAT: false, applyOnForward: false}}`, []string{"allowEssential would never be asked"}},
		{`policies: {allowCluster: {preDNAT: false}, dropOther: {preDNAT: false, applyOnForward: false}}`, []string{"policies.dropOther.applyOnForward is false and policies.allowCluster.applyOnForward is true", "Write the same for both"}},
		{`policies: {allowCluster: {preDNAT: false, applyOnForward: false}, dropOther: {preDNAT: false}}`, []string{"policies.dropOther.applyOnForward is true and policies.allowCluster.applyOnForward is false"}},

		{entry(``) + "\npolicies: {allowIngress: {order: 30}}", []string{"policies.allowIngress.order is 30", "above 30"}},
		{entry(``) + "\npolicies: {allowIngress: {preDNAT: false}}", []string{"allowIngress would never be asked"}},

		// the agent
		{`agent: {runAsUser: 0}`, []string{"agent.runAsUser is 0", "agent.runAsUser: 65532"}},
		{`podMonitor: {enabled: true}`, []string{"podMonitor.enabled is true and agent.metrics.enabled is false", "Write agent.metrics.enabled: true"}},
		{`prometheusRule: {enabled: true}`, []string{"prometheusRule.enabled is true and agent.metrics.enabled is false", "Write agent.metrics.enabled: true, or prometheusRule.enabled: false."}},
		{`dashboard: {enabled: true}`, []string{"dashboard.enabled is true and agent.metrics.enabled is false", "Write agent.metrics.enabled: true, or dashboard.enabled: false."}},
		{`prometheusRule: {disabled: [HostFirewallNodeConflict, Watchdog]}`, []string{"prometheusRule.disabled[1] is Watchdog, and no alert is called so. Write one of HostFirewallNodeNotProtected, "}},
		{`prometheusRule: {disabled: HostFirewallNodeConflict}`, []string{"prometheusRule.disabled is ", "not a list. Write "}},
		{`{agent: {metrics: {enabled: true, address: 127.0.0.1}}, podMonitor: {enabled: true}}`, []string{"agent.metrics.address is 127.0.0.1", `agent.metrics.address: ""`}},
		{`agent: {metrics: {enabled: true, port: 9097}}`, []string{"agent.health.port and agent.metrics.port are both 9097", "Write two different ports"}},
		{`agent: {health: {port: 9095}}`, []string{"agent.health.port and controller.health.port are both 9095", "on one node", "Write two different ports"}},
		{`{agent: {metrics: {enabled: true}}, controller: {metrics: {port: 9096}}}`, []string{"agent.metrics.port and controller.metrics.port are both 9096"}},
		{`{agent: {metrics: {enabled: true}}, controller: {health: {port: 9094}}}`, []string{"controller.health.port and controller.metrics.port are both 9094"}},
		{`serviceAccount: {name: host-firewall-controller}`, []string{"serviceAccount.name is host-firewall-controller", "Write another name"}},
		{`controller: {enabled: true}`, []string{"/controller", "'enabled' not allowed"}},
		{`controller: {replicas: 2}`, []string{"/controller", "'replicas' not allowed"}},
		{`controller: {health: {port: 80}}`, []string{"/controller/health/port", "minimum"}},
		{`controller: {resources: {requests: {cpu: 2}, limits: {cpu: 1}}}`, []string{"controller.resources.requests.cpu is 2 and controller.resources.limits.cpu is 1"}},
		{`controller: {resources: {limits: {memory: 64MB}}}`, []string{"controller.resources.limits.memory is ", "Write "}},
		{`controller: {tolerations: [{key: a b}]}`, []string{"controller.tolerations[0].key is ", "Write "}},
		{`controller: {nodeSelector: {zone: a b}}`, []string{"controller.nodeSelector.zone is ", "Write "}},
		{`controller: {priorityClassName: High}`, []string{"controller.priorityClassName is ", "Write high"}},
		{`controller: {podLabels: {app.kubernetes.io/component: x}}`, []string{"controller.podLabels has app.kubernetes.io/component", "Write another key"}},
		{`controller: {podAnnotations: {host-firewall.io/x: x}}`, []string{"controller.podAnnotations has host-firewall.io/x"}},
		{`fullnameOverride: ` + strings.Repeat("n", 39), []string{"fullnameOverride is ", "not a name that leaves room for those of the policies", "at most 38"}},
		{`serviceAccount: {create: false}`, []string{"serviceAccount.create is false and serviceAccount.name is empty", "serviceAccount.create: true"}},
		{`agent: {extraEnv: [{name: HOST_FIREWALL_RELEASE, value: x}]}`, []string{"agent.extraEnv[0] is HOST_FIREWALL_RELEASE", "Write the value instead"}},
		{`agent: {extraEnv: [{name: A, value: x}, {name: KUBERNETES_SERVICE_HOST, value: x}]}`, []string{"agent.extraEnv[1] is KUBERNETES_SERVICE_HOST"}},

		// keys that the chart writes itself
		{`commonLabels: {host-firewall.io/release: x}`, []string{"commonLabels has host-firewall.io/release"}},
		{`commonLabels: {app.kubernetes.io/name: x}`, []string{"commonLabels has app.kubernetes.io/name"}},
		{`commonAnnotations: {helm.sh/hook: pre-install}`, []string{"commonAnnotations has helm.sh/hook"}},
		{`commonLabels: {helm.sh/chart: x}`, []string{"commonLabels has helm.sh/chart"}},
		{`agent: {podLabels: {app.kubernetes.io/instance: x}}`, []string{"agent.podLabels has app.kubernetes.io/instance"}},
		{`commonAnnotations: {host-firewall.io/open: x}`, []string{"commonAnnotations has host-firewall.io/open"}},
		{`podMonitor: {labels: {app.kubernetes.io/name: x}}`, []string{"podMonitor.labels has app.kubernetes.io/name"}},
		{`prometheusRule: {labels: {app.kubernetes.io/name: x}}`, []string{"prometheusRule.labels has app.kubernetes.io/name"}},
		{`prometheusRule: {alertLabels: {a-b: x}}`, []string{"prometheusRule.alertLabels has a key that is \"a-b\", not the name of a label of Prometheus", "Write letters, digits"}},
		{`dashboard: {labels: {app.kubernetes.io/name: x}}`, []string{"dashboard.labels has app.kubernetes.io/name"}},
		{`dashboard: {annotations: {host-firewall.io/x: x}}`, []string{"dashboard.annotations has host-firewall.io/x"}},
		{`hostEndpoint: {interfaces: [eth0, "cali*"]}`, []string{"hostEndpoint.interfaces[1] is cali*", "interfaces of pods", "Write interfaces of the node"}},
		{`serviceAccount: {name: default}`, []string{"serviceAccount.name is default", "serviceAccount.create: false"}},
		{sshFor(manyNetworks(4001)).values, []string{"ssh.cidrs has 4001 networks", "Write fewer and larger ones"}},
		{`cluster: {cidrs: ["` + strings.Repeat(`2001:db8:0000:0000:0000:0000:0000:0000/128", "`, 3000) + `10.0.0.0/8"]}`, []string{"cluster.cidrs has 3001 networks"}},
		{`agent: {podAnnotations: {host-firewall.io/x: x}}`, []string{"agent.podAnnotations has host-firewall.io/x"}},
		{`serviceAccount: {annotations: {host-firewall.io/x: x}}`, []string{"serviceAccount.annotations has host-firewall.io/x"}},
	} {
		t.Run(test.values, func(t *testing.T) {
			_, err := tryRender(t, setting{values: test.values})
			require.Error(t, err, "rendered")
			require.Empty(t, unhelpful(t, err))
			for _, words := range test.words {
				require.ErrorContains(t, err, words)
			}
		})
	}
}

// sshBeside is ssh and, among entries of ingress that have nothing to do with it, one that may.
func sshBeside(ssh, cidrs, ports string) string {
	return fmt.Sprintf(`{ssh: {%s}, ingress: [{name: udp, cidrs: [0.0.0.0/0], protocol: UDP, ports: [22]}, {name: x, %s, protocol: TCP, %s},
	  {name: web, cidrs: [0.0.0.0/0, "::/0"], protocol: TCP, ports: [80, 443, "30000:32767"]}]}`, ssh, cidrs, ports)
}

// entry is one of ingress, with one field written otherwise.
func entry(field string) string {
	fields := map[string]string{"name": "web", "cidrs": "[10.0.0.0/8]", "protocol": "TCP", "ports": "[443]"}
	if key, value, changed := strings.Cut(field, ": "); changed {
		fields[key] = value
	}
	return fmt.Sprintf("ingress: [{name: %s, cidrs: %s, protocol: %s, ports: %s}]", fields["name"], fields["cidrs"], fields["protocol"], fields["ports"])
}

// Many networks may come close to everybody, and must be taken.
func TestSSHForManyIsNotForEverybody(t *testing.T) {
	t.Parallel()
	for _, cidrs := range []string{
		`[0.0.0.0/1, 128.0.0.0/2, 192.0.0.0/4]`, `[0.0.0.0/1, 0.0.0.0/2, 64.0.0.0/2, 0.0.0.0/1]`, `["2000::/4", "3000::/5", "3800::/6"]`,
		`["fc00::/7", "fe80::/10"]`, `[224.0.0.0/4]`,
	} {
		render(t, setting{values: `ssh: {narrowFailsafe: false, cidrs: ` + cidrs + `}`})
	}
	for _, values := range []string{
		`{ssh: {cidrs: [0.0.0.0/0, "::/0"], allowEverywhere: true}, cluster: {cidrs: ["::/0"]}}`,
		sshBeside(`cidrs: [10.0.0.0/8]`, `cidrs: [0.0.0.0/0, "::/0"]`, `ports: [23, "1000:2000"]`),
		// Half of everybody to one port and half to another.
		sshBeside(`cidrs: [0.0.0.0/2], ports: [22, 2222]`, `cidrs: [64.0.0.0/2]`, `ports: [22]`),
		// Without ssh.cidrs nothing is said about who may connect to SSH.
		sshBeside(`ports: [2222]`, `cidrs: [0.0.0.0/0, "::/0"]`, `ports: [22, 2222]`),
	} {
		render(t, setting{values: values})
	}
}

func TestWhatIsPrometheusOperatorsIsRefusedWhereNobodyServesIt(t *testing.T) {
	for value, kind := range map[string]string{"podMonitor": "PodMonitor", "prometheusRule": "PrometheusRule"} {
		values := fmt.Sprintf(`{agent: {metrics: {enabled: true}}, %s: {enabled: true}}`, value)
		for _, served := range []chartutil.VersionSet{clusterServing(apiV1), append(clusterServing(apiV1), monitoringV1)} {
			_, err := tryRender(t, setting{values: values, served: served})
			require.ErrorContains(t, err, value+".enabled is true and this cluster does not serve "+kind+" in monitoring.coreos.com/v1. Install Prometheus Operator first, or write "+value+".enabled: false.")
		}
		r := render(t, setting{values: values, served: append(clusterServing(apiV1), monitoringV1+"/"+kind)})
		require.Contains(t, r.kinds, kind)
	}
	render(t, setting{values: `{agent: {metrics: {enabled: true}}, dashboard: {enabled: true}}`, served: clusterServing(apiV1)})
}

func TestWhatIsNoNetworkIsRefused(t *testing.T) {
	t.Parallel()
	for _, cidr := range []string{
		"192.0.2.1", "192.0.2.0/33", "192.0.2/24", "192.0.2.256/32", "010.0.0.0/8", "10.0.0.0/08", "10.0.0.0/8 ", "::1", "2001:db8::/129",
		"2001:db8:::/48", "2001::db8::/48", "1:2:3:4:5:6:7/112", "1:2:3:4:5:6:7:8:9/128", "12345::/32", "g::/16", "::ffff:192.0.2.0/120",
		"fe80::1%eth0/128", "any", "",
	} {
		for _, list := range []string{"ssh: {cidrs", "cluster: {cidrs", "essential: {nodeLocalDNS"} {
			_, err := tryRender(t, setting{values: fmt.Sprintf("%s: [%q]}", list, cidr)})
			path := strings.ReplaceAll(list, ": {", ".") + "[0]"
			written := fmt.Sprintf("%q", cidr)
			if cidr == "" {
				written = "empty"
			}
			require.ErrorContains(t, err, fmt.Sprintf("%s is %s, not a ", path, written))
			require.ErrorContains(t, err, "Write ", cidr)
		}
	}
}

// What people write, and what they meant by it.
func TestWhatWasMeantIsWhatToWrite(t *testing.T) {
	t.Parallel()
	const network, port, protocol = "not a network with its prefix length", "not a port or a range of ports", "not a protocol that Calico knows"
	for values, words := range map[string]string{
		`ssh: {cidrs: [10.0.0.0/8, 192.0.2.1]}`:                    `ssh.cidrs[1] is "192.0.2.1", ` + network + `. Write 192.0.2.1 with its prefix length (192.0.2.1/32 is that one address).`,
		`cluster: {cidrs: [10.0.0.0]}`:                             `. Write 10.0.0.0 with its prefix length (10.0.0.0/32 is that one address).`,
		`cluster: {cidrs: ["10.0.0.1/8 "]}`:                        `. Write for example 192.0.2.0/24 or 2001:db8::/32.`,
		`cluster: {cidrs: ["2001:db8::1"]}`:                        `cluster.cidrs[0] is "2001:db8::1", ` + network + `. Write 2001:db8::1 with its prefix length (2001:db8::1/128 is that one address).`,
		`essential: {nodeLocalDNS: [169.254.25.10]}`:               `essential.nodeLocalDNS[0] is "169.254.25.10", not a single address with /32 or /128. Write 169.254.25.10/32.`,
		`ssh: {cidrs: ["10.0.0.0/8 "]}`:                            `ssh.cidrs[0] is "10.0.0.0/8 ", ` + network + `. Write 10.0.0.0/8.`,
		`ssh: {cidrs: ["10.0.0.0/8,192.0.2.0/24"]}`:                `ssh.cidrs[0] is "10.0.0.0/8,192.0.2.0/24", ` + network + `. Write each as an item of its own: 10.0.0.0/8, 192.0.2.0/24.`,
		`ssh: {cidrs: ["10.0.0.0/8\n192.0.2.1"]}`:                  `ssh.cidrs[0] is "10.0.0.0/8\n192.0.2.1", ` + network + `. Write each as an item of its own: 10.0.0.0/8, 192.0.2.1 with its prefix length (192.0.2.1/32 is that one address).`,
		`ssh: {cidrs: [10.0.0.0/255.0.0.0]}`:                       `ssh.cidrs[0] is "10.0.0.0/255.0.0.0", ` + network + `. Write for example 192.0.2.0/24 or 2001:db8::/32.`,
		`ssh: {cidrs: ["10.0.0.0/8\n10.0.0.0/8"]}`:                 `Write each as an item of its own: 10.0.0.0/8, 10.0.0.0/8.`,
		`ssh: {ports: ["22"]}`:                                     `ssh.ports[0] is "22", ` + port + `. Write 22 without quotes.`,
		`ssh: {ports: [22, "2200-2299"]}`:                          `ssh.ports[1] is "2200-2299", ` + port + `. Write "2200:2299".`,
		`ssh: {ports: ["2299-2200"]}`:                              `. Write "2200:2299".`,
		entry(`ports: ["30000 - 32767"]`):                          `ingress[0].ports[0] is "30000 - 32767", ` + port + `. Write "30000:32767".`,
		entry(`ports: ["80,443"]`):                                 `ingress[0].ports[0] is "80,443", ` + port + `. Write each as an item of its own: 80 without quotes, 443 without quotes.`,
		entry(`ports: [https]`):                                    `ingress[0].ports[0] is "https", ` + port + `. Write a number from 1 to 65535, or a range such as "30000:32767".`,
		entry(`protocol: tcp`):                                     `ingress[0].protocol is "tcp", ` + protocol + `. Write TCP.`,
		entry(`protocol: icmpv6`):                                  `ingress[0].protocol is "icmpv6", ` + protocol + `. Write ICMPv6.`,
		entry(`protocol: "112"`):                                   `ingress[0].protocol is "112", ` + protocol + `. Write 112 without quotes.`,
		entry(`protocol: any`):                                     `ingress[0].protocol is "any", ` + protocol + `. Write TCP, UDP, SCTP, ICMP, ICMPv6, or a number such as 112.`,
		entry(`name: Web`):                                         `ingress[0].name is "Web", not a name. Write web.`,
		entry(`name: web server`):                                  `ingress[0].name is "web server", not a name. Write at most 63 lower-case letters, digits and dashes.`,
		`hostEndpoint: {interfaces: ["eth0,eth1"]}`:                `hostEndpoint.interfaces[0] is "eth0,eth1", not the name of an interface or a glob. Write each as an item of its own: eth0, eth1.`,
		`agent: {metrics: {enabled: true, address: 0.0.0.0:9098}}`: `agent.metrics.address is "0.0.0.0:9098", not an address of a node. Write for example 127.0.0.1`,
		`agent: {resync: 10 minutes}`:                              `agent.resync is "10 minutes", not a time in hours, minutes and seconds. Write for example 10m or 1h30m.`,
		`commonLabels: {team: "the network team"}`:                 `commonLabels.team is "the network team", not the value of a label. Write at most 63`,
		`agent: {podAnnotations: {"the owner": x}}`:                `agent.podAnnotations has a key that is "the owner", not the key of an annotation. Write for example owner`,
	} {
		_, err := tryRender(t, setting{values: values})
		require.ErrorContains(t, err, words)
	}
}

// What Kubernetes takes, the chart takes as well.
func TestWhatIsRightIsTaken(t *testing.T) {
	t.Parallel()
	for _, values := range []string{
		`agent: {affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: cores, operator: Gt, values: ["4"]}]}]}}}}`,
		`agent: {tolerations: [{key: "", operator: Exists}, {key: a, value: ""}]}`,
		`agent: {kubernetesService: {host: localhost}}`,
		`agent: {kubernetesService: {host: 10-0-0-1.Nodes.example.org}}`,
		`agent: {kubernetesService: {host: 0123456789abcdef.gr7.eu-west-1.eks.amazonaws.com}}`,
		`agent: {kubernetesService: {host: "2001:db8::1"}}`,
		`commonLabels: {a: ""}`,
		`rollout: {verify: null, confirm: null}`,
		`rollout: {confirm: 60s}`,
		`rollout: {confirm: 23h59m60s}`,
	} {
		render(t, setting{values: values})
	}
}

func TestEveryFormOfANetworkIsTaken(t *testing.T) {
	t.Parallel()
	for _, cidr := range []string{
		"0.0.0.0/0", "10.0.0.0/8", "192.0.2.128/25", "192.0.2.255/32", "100.64.0.0/10", "::/0", "::1/128", "2001:db8::/32", "2001:db8:0:8::/61",
		"fe80::/10", "1:2:3:4:5:6:7:8/128", "1::8/128", "1:2:3:4:5:6:7::/112", "::2:3:4:5:6:7:8/128", "1:2::7:8/128", "1:2:3::6:7:8/128",
		"1:2:3:4::7:8/128", "1:2:3:4:5::8/128", "1:2:3:4::/64", "64:ff9b::/96", "ffff::/16", "0:0:0:0:0:0:0:0/0",
	} {
		r := render(t, setting{values: fmt.Sprintf("ssh: {cidrs: [%q], narrowFailsafe: false, allowEverywhere: true}", cidr)})
		rules := r.policy(t, "allow-ssh").Spec.Ingress
		require.Len(t, rules, 1, cidr)
		require.Equal(t, []string{cidr}, rules[0].Source.Nets)
		require.Empty(t, expected{}.brokenRule(rules[0]), cidr)
	}
}

// The guards are for policies that are there: settings of one that says nothing are of no consequence.
func TestSettingsOfAPolicyThatIsNotRenderedAreNotHeldAgainstIt(t *testing.T) {
	for _, values := range []string{
		`policies: {allowSSH: {order: 99, preDNAT: false}}`,
		"cluster: {trustNodes: false, trustPods: false, trustAPIServer: false}\npolicies: {allowCluster: {order: 99, applyOnForward: false}}",
		`policies: {allowOutbound: {order: 99}}`,
		`ssh: {ports: []}`,
		`agent: {metrics: {port: 9097}}`,
	} {
		render(t, setting{values: values})
	}
}

func TestOlderKubernetesIsRefused(t *testing.T) {
	_, err := tryRender(t, setting{kubernetes: "v1.26.15"})
	require.ErrorContains(t, err, "chart requires kubeVersion: >=1.27.0-0")
	render(t, setting{kubernetes: "v1.27.3-gke.100"})
}
