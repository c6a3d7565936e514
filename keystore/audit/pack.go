package audit

import (
	"encoding/hex"
	"errors"
	"strings"
)

// A packed event is its JSON with three things replaced, so that it takes a third of the room and of the time to be sealed and
// written. It says of each what stands for it, and nothing depends on other events: what is in one does not show in the length of another.
//
//	0x80 + n          the n-th word of the dictionary: the name of a member with its colon, a string with its quotes, or the beginning
//	                  of an ARN
//	0xfe, 16 bytes    a UUID in lower case, with its dashes
//	0xff, a byte      that byte, if it is 0x80 or more
//
// Before all that stands packedMark, with which no JSON begins. The dictionary is part of the format: it grows at its end.

const (
	packedMark = 0x01
	packedUUID = 0xfe
	packedByte = 0xff
	uuidSize   = 16
)

// word is what stands for an entry of the dictionary.
type word byte

const firstWord = 0x80

const (
	wEventVersion word = firstWord + iota
	wUserIdentity
	wEventTime
	wEventSource
	wEventName
	wAWSRegion
	wSourceIPAddress
	wUserAgent
	wErrorCode
	wErrorMessage
	wRequestParameters
	wResponseElements
	wServiceEventDetails
	wAdditionalEventData
	wRequestID
	wEventID
	wReadOnly
	wEventType
	wManagementEvent
	wRecipientAccountID
	wEventCategory
	wType
	wPrincipalID
	wArn
	wAccountID
	wAccessKeyID
	wUserName
	wSessionContext
	wInvokedBy
	wKeyID
	wKeySpec
	wEncryptionAlgorithm
	wEncryptionContext
	wSourceKeyID
	wSourceEncryptionContext
	wSourceEncryptionAlgorithm
	wDestinationKeyID
	wDestinationEncryptionContext
	wDestinationEncryptionAlgorithm
	wSSEApplied
	wXKmsfs
	wOp
	wPath
	wInode
	wMount
	wUID
	wPID
	wDecision
	wEffect
	wSource
	wPolicy
	wSID
	wStatement
	wMissing
	wResources
	wARN
	wContextARN
	wARNofKMS // the beginnings of ARNs
	wARNofS3
	wARNofIAM
	wValues // strings begin here
)

// words are the entries, by word - firstWord.
var words = [...]string{
	`"eventVersion":`,
	`"userIdentity":`,
	`"eventTime":`,
	`"eventSource":`,
	`"eventName":`,
	`"awsRegion":`,
	`"sourceIPAddress":`,
	`"userAgent":`,
	`"errorCode":`,
	`"errorMessage":`,
	`"requestParameters":`,
	`"responseElements":`,
	`"serviceEventDetails":`,
	`"additionalEventData":`,
	`"requestID":`,
	`"eventID":`,
	`"readOnly":`,
	`"eventType":`,
	`"managementEvent":`,
	`"recipientAccountId":`,
	`"eventCategory":`,
	`"type":`,
	`"principalId":`,
	`"arn":`,
	`"accountId":`,
	`"accessKeyId":`,
	`"userName":`,
	`"sessionContext":`,
	`"invokedBy":`,
	`"keyId":`,
	`"keySpec":`,
	`"encryptionAlgorithm":`,
	`"encryptionContext":`,
	`"sourceKeyId":`,
	`"sourceEncryptionContext":`,
	`"sourceEncryptionAlgorithm":`,
	`"destinationKeyId":`,
	`"destinationEncryptionContext":`,
	`"destinationEncryptionAlgorithm":`,
	`"SSEApplied":`,
	`"x-kmsfs":`,
	`"op":`,
	`"path":`,
	`"inode":`,
	`"mount":`,
	`"uid":`,
	`"pid":`,
	`"decision":`,
	`"effect":`,
	`"source":`,
	`"policy":`,
	`"sid":`,
	`"statement":`,
	`"missing":`,
	`"resources":`,
	`"ARN":`,
	`"aws:s3:arn":`,
	`arn:aws:kms:`,
	`arn:aws:s3:::`,
	`arn:aws:iam::`,
	`"1.11"`,
	`"kms.amazonaws.com"`,
	`"s3.amazonaws.com"`,
	`"AwsApiCall"`,
	`"Management"`,
	`"AWS::KMS::Key"`,
	`"SYMMETRIC_DEFAULT"`,
	`"AES_256"`,
	`"IAMUser"`,
	`"Root"`,
	`"Allow"`,
	`"ExplicitDeny"`,
	`"ImplicitDeny"`,
	`"Decrypt"`,
	`"GenerateDataKey"`,
	`"ReEncrypt"`,
	`"Encrypt"`,
}

// values are the strings that are in the dictionary.
var values = func() map[string]word {
	m := map[string]word{}
	for w := wValues; int(w-firstWord) < len(words); w++ {
		m[strings.Trim(words[w-firstWord], `"`)] = w
	}
	return m
}()

var errPacked = errors.New("audit: not a packed event")

// packText appends the inside of a string, in which there is nothing to escape.
func packText(dst []byte, s string) []byte {
	if strings.HasPrefix(s, "arn:aws:") {
		for _, w := range [...]word{wARNofKMS, wARNofS3, wARNofIAM} {
			if rest, ok := strings.CutPrefix(s, words[w-firstWord]); ok {
				dst, s = append(dst, byte(w)), rest
				break
			}
		}
	}
	if n := len(s) - idSize; n >= 0 {
		if id, ok := parseUUID(s[n:]); ok {
			dst = append(append(dst, s[:n]...), packedUUID)
			return append(dst, id[:]...)
		}
	}
	return append(dst, s...)
}

// packLiteral appends text as it is.
func packLiteral(dst, text []byte) []byte {
	for _, c := range text {
		if c >= firstWord {
			dst = append(dst, packedByte)
		}
		dst = append(dst, c)
	}
	return dst
}

// parseUUID reads what newIDs writes: lower case, with dashes.
func parseUUID(s string) (id [uuidSize]byte, ok bool) {
	if s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return id, false
	}
	n := 0
	for i := 0; i < idSize; i += 2 {
		if s[i] == '-' {
			i++
		}
		if i+1 >= idSize {
			return id, false
		}
		a, b := nibbles[s[i]], nibbles[s[i+1]]
		if a|b > 0xf {
			return id, false
		}
		id[n] = a<<4 | b
		n++
	}
	return id, true
}

// nibbles are the values of the lower-case digits; 0xff for what is none.
var nibbles = func() (t [256]byte) {
	for i := range t {
		t[i] = 0xff
	}
	for i, c := range "0123456789abcdef" {
		t[c] = byte(i)
	}
	return t
}()

// unpack gives an event's JSON. A line that is not packed is that already.
func unpack(line []byte) ([]byte, error) {
	if len(line) == 0 || line[0] != packedMark {
		return line, nil
	}
	out := make([]byte, 0, 4*len(line))
	for b := line[1:]; len(b) > 0; {
		switch c := b[0]; {
		case c < firstWord:
			out, b = append(out, c), b[1:]
		case c == packedByte && len(b) > 1 && b[1] >= firstWord:
			out, b = append(out, b[1]), b[2:]
		case c == packedUUID && len(b) > uuidSize:
			out, b = appendUUID(out, [uuidSize]byte(b[1:])), b[1+uuidSize:]
		case int(c-firstWord) < len(words):
			out, b = append(out, words[c-firstWord]...), b[1:]
		default:
			return nil, errPacked
		}
	}
	return out, nil
}

func appendUUID(dst []byte, id [uuidSize]byte) []byte {
	from := 0
	for _, to := range [...]int{4, 6, 8, 10, uuidSize} {
		if from > 0 {
			dst = append(dst, '-')
		}
		dst = hex.AppendEncode(dst, id[from:to])
		from = to
	}
	return dst
}
