// Package pki makes the certificates and kubeconfigs of a test cluster.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

// lifetime of every certificate; a test cluster is younger than that.
const lifetime = 30 * 24 * time.Hour

// Authority signs the certificates of one cluster and keeps them in one folder.
type Authority struct {
	dir string
	crt *x509.Certificate
	key crypto.Signer
}

// Create makes a new authority in dir, with ca.crt and ca.key, and sa.key to sign service account tokens with.
func Create(dir string) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create certificate authority: %w", err)
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	crt, err := cert.NewSelfSignedCACert(cert.Config{CommonName: "host-firewall-test"}, key)
	if err != nil {
		return nil, fmt.Errorf("create certificate authority: %w", err)
	}
	a := &Authority{dir: dir, crt: crt, key: key}
	if err := a.write("ca", crt, key); err != nil {
		return nil, err
	}
	tokens, err := newKey()
	if err != nil {
		return nil, err
	}
	if err := writeKey(a.Path("sa.key"), tokens); err != nil {
		return nil, err
	}
	return a, nil
}

// Open reads the authority that Create left in dir.
func Open(dir string) (*Authority, error) {
	crts, err := cert.CertsFromFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("open certificate authority: %w", err)
	}
	key, err := keyutil.PrivateKeyFromFile(filepath.Join(dir, "ca.key"))
	if err != nil {
		return nil, fmt.Errorf("open certificate authority: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("open certificate authority: %s can't sign", filepath.Join(dir, "ca.key"))
	}
	return &Authority{dir: dir, crt: crts[0], key: signer}, nil
}

// Path is where the authority keeps a file.
func (a *Authority) Path(file string) string { return filepath.Join(a.dir, file) }

// Identity is what a certificate says of its holder.
type Identity struct {
	// User and Groups are the names that Kubernetes' authorization sees.
	User   string
	Groups []string
	// Names and IPs are those under which a server is reached.
	Names []string
	IPs   []net.IP
}

// Issue writes <file>.crt and <file>.key for both sides of a connection.
func (a *Authority) Issue(file string, id Identity) error {
	key, err := newKey()
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 64))
	if err != nil {
		return fmt.Errorf("issue certificate %s: %w", file, err)
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: id.User, Organization: id.Groups},
		DNSNames:     id.Names,
		IPAddresses:  id.IPs,
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(lifetime),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.crt, key.Public(), a.key)
	if err != nil {
		return fmt.Errorf("issue certificate %s: %w", file, err)
	}
	crt, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("issue certificate %s: %w", file, err)
	}
	return a.write(file, crt, key)
}

// Kubeconfig issues a certificate and writes a kubeconfig that needs no other file, to path.
func (a *Authority) Kubeconfig(path, server string, id Identity) error {
	file := filepath.Base(path)
	if err := a.Issue(file, id); err != nil {
		return err
	}
	const name = "host-firewall-test"
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{Server: server, CertificateAuthority: a.Path("ca.crt")}
	config.AuthInfos[id.User] = &clientcmdapi.AuthInfo{ClientCertificate: a.Path(file + ".crt"), ClientKey: a.Path(file + ".key")}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: id.User}
	config.CurrentContext = name
	if err := clientcmdapi.FlattenConfig(config); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	return nil
}

func newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("create key: %w", err)
	}
	return key, nil
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	pem, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	if err := keyutil.WriteKey(path, pem); err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	return nil
}

func (a *Authority) write(file string, crt *x509.Certificate, key *ecdsa.PrivateKey) error {
	if err := writeKey(a.Path(file+".key"), key); err != nil {
		return err
	}
	pem, err := cert.EncodeCertificates(crt)
	if err != nil {
		return fmt.Errorf("write certificate: %w", err)
	}
	if err := cert.WriteCert(a.Path(file+".crt"), pem); err != nil {
		return fmt.Errorf("write certificate: %w", err)
	}
	return nil
}
